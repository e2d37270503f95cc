"""The part of the doctor that loads JAX and the kernels, in a process of its own.

`python -m flaxen.cli.doctor.computing MEASURE THREADS DEVICE` prints one JSON object a line, as
far as it gets: an instruction that the CPU does not have ends the process, and only this one.
`probe_compute` starts it and reads the lines.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from flaxen.cli.cpu import ISA_VARIABLE
from flaxen.doctor.facts import Compute, Kernels, Speeds

_TIMEOUT_S = 120
_BUFFER_BYTES = 1 << 28  # half a second of reading


def probe_compute(
    num_threads: int | None,
    device: str = "auto",
    *,
    measure: bool,
    timeout_s: float = _TIMEOUT_S,
) -> Compute:
    """Runs this module in a process of its own.

    Args:
      num_threads: the threads that compute; None is one for each CPU of the process.
      device: where JAX is to compute, as EngineArgs.device.
      measure: whether to measure the machine's speed, which takes a second or two.
      timeout_s: when to give up.
    """
    # -P: a jax.py in the working directory is not the library.
    arguments = [str(int(measure)), str(num_threads or 0), device]
    command = [sys.executable, "-P", "-m", __name__, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
        return read_lines(done.stdout, done.stderr, done.returncode, measure=measure)
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"").decode(errors="replace")
        return read_lines(said, f"it took more than {timeout_s:.0f} s", 0, measure=measure)


def read_lines(stdout: str, stderr: str, returncode: int, *, measure: bool) -> Compute:
    """What the process found; the part that it did not come to has its end as the error."""
    found: dict[str, Any] = {}
    for line in stdout.splitlines():
        if line.startswith("{"):
            found |= json.loads(line)
    if "kernels" in found:
        kernels = found["kernels"]
        found["kernels"] = Kernels(**{**kernels, "supported": tuple(kernels["supported"])})
    if "speeds" in found:
        found["speeds"] = Speeds(**found["speeds"])
    found["devices"] = tuple(found.get("devices", ()))
    end = _end(stderr, returncode)
    for part, before in (("jax", None), ("kernels", "platform"), ("speeds", "kernels")):
        has = "platform" if part == "jax" else part
        is_due = (before is None or before in found) and (measure or part != "speeds")
        if is_due and has not in found and f"{part}_error" not in found:
            found[f"{part}_error"] = end
    return Compute(**found)


def _end(stderr: str, returncode: int) -> str:
    if returncode < 0:
        return f"the process was ended by {signal.Signals(-returncode).name}"
    return (stderr.strip() or f"the process ended with {returncode}").splitlines()[-1]


def main() -> None:
    """Prints what each stage finds, before the next one begins."""
    measure, num_threads, device = bool(int(sys.argv[1])), int(sys.argv[2]) or None, sys.argv[3]
    stages: dict[str, Callable[[], dict[str, Any]]] = {
        "plugins": _plugins,
        "jax": partial(_jax, device),
        "kernels": partial(_kernels, num_threads),
        "speeds": _speeds,
    }
    variables = {"jax_platforms": "JAX_PLATFORMS", "wanted_isa": ISA_VARIABLE}
    asked: dict[str, str | None] = {
        name: os.environ.get(variable) or None for name, variable in variables.items()
    }
    asked["wanted_device"] = None if device == "auto" else device
    print(json.dumps(asked), flush=True)
    for name, stage in stages.items():
        if name == "speeds" and not measure:
            continue
        found = _isolated(name, stage)
        print(json.dumps(found), flush=True)
        if f"{name}_error" in found:
            return


def _isolated(name: str, stage: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return stage()
    except Exception as error:  # a broken library raises anything, and that is the finding
        said = (str(error).strip().splitlines() or [""])[0]
        kind = type(error).__name__
        return {f"{name}_error": f"{kind}: {said}" if said else kind}


def _plugins() -> dict[str, Any]:
    from flaxen.kernels.accelerators import look_around

    return {"plugins": dict(look_around().plugins)}


def _jax(device: str) -> dict[str, Any]:
    import jax

    from flaxen.kernels.device import describe_devices, gpu_memory_settings, use_device

    os.environ.update(gpu_memory_settings(os.environ))
    use_device(device)
    return {
        "platform": jax.default_backend(),
        "devices": [str(each) for each in jax.devices()],
        "described": describe_devices(),
    }


def _kernels(num_threads: int | None) -> dict[str, Any]:
    from flaxen.cli.cpu import set_up_cpu
    from flaxen.kernels import cpu_library

    cpu = set_up_cpu(num_threads)
    return {
        "kernels": {
            "isa": cpu.isa,
            "supported": cpu_library.supported_isas(),
            "num_threads": cpu.num_threads,
            "has_accelerator": cpu.accelerator is not None,
            "missing_reason": cpu.missing_reason,
        }
    }


def _speeds() -> dict[str, Any]:
    from flaxen.benchmark.limits import measure_limits
    from flaxen.cli.cpu import backend_name
    from flaxen.kernels.choice import choose_backend

    backend = choose_backend(backend_name())
    limits = measure_limits(backend.default_dtype, backend, buffer_bytes=_BUFFER_BYTES)
    return {"speeds": {"read_bytes_s": limits.read_bytes_s, "matmul_flops": limits.matmul_flops}}


if __name__ == "__main__":
    main()
