"""Engines for the comparison: tiny scripts that speak JSON lines, and do as their name says."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.peers.compare import Engine, Plan
from flaxen.benchmark.workloads import RequestBatch, Workload

# Each run is written down in the order in which the engines were asked. `seconds` is what it
# claims to have taken.
_SCRIPT = """
import json, sys, time
name, seconds, log = sys.argv[1], float(sys.argv[2]), sys.argv[3]
print(json.dumps({"ready": {"fake": "1"}}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    with open(log, "a") as file:
        file.write(f"{name} {len(request['prompts'])}\\n")
    num_tokens = sum(request["num_outputs"])
"""
_REPLY = """
    print(json.dumps({"wall_s": seconds, "num_tokens": num_tokens}), flush=True)
"""
BEHAVIOURS = {
    "good": _SCRIPT + _REPLY,
    "ends": _SCRIPT + "    sys.exit('out of luck')\n",
    "errs": _SCRIPT + "    print(json.dumps({'error': 'RuntimeError: no'}), flush=True)\n",
    "hangs": _SCRIPT + "    time.sleep(600)\n",
    "stops short": _SCRIPT + "    num_tokens -= 1\n" + _REPLY,
    "talks": _SCRIPT + "    print('hello', flush=True)\n",
    "declines": _SCRIPT + "    print(json.dumps({'unsupported': 'not these'}), flush=True)\n",
    "never ready": "import time; time.sleep(600)",
    "not ready": "print('{}', flush=True)",
    "ends at once": "import sys; sys.exit('no such model')",
}


def fake_engine(name: str, log: Path, behaviour: str = "good", seconds: float = 1.0) -> Engine:
    """An engine that claims each batch took `seconds`."""
    script = BEHAVIOURS[behaviour]
    return Engine(
        name=name,
        command=(sys.executable, "-c", script, name, str(seconds), str(log)),
        env={},
        weight_bits=16,
        cache_bits=16,
        kv_bytes=0,
    )


def batch(
    num_requests: int, num_output: int = 3, ttft_prompt: tuple[int, ...] | None = None
) -> RequestBatch:
    """Requests of two tokens each."""
    return RequestBatch(
        prompts=((1, 2),) * num_requests,
        num_outputs=(num_output,) * num_requests,
        ttft_prompt=ttft_prompt,
    )


def plan(
    *batches: RequestBatch, run_timeout_s: float = 20.0, startup_timeout_s: float = 20.0
) -> Plan:
    """One workload, W, of these repetitions; its warm-up is of 9 requests."""
    warmup = Workload(name="warmup", description="", batches=(batch(9),))
    workload = Workload(name="W", description="", batches=batches)
    return Plan(
        workloads={"W": workload, "warmup": warmup},
        names=("W",),
        num_reps=len(batches),
        startup_timeout_s=startup_timeout_s,
        run_timeout_s=run_timeout_s,
    )
