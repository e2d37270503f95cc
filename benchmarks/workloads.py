"""Prints the workloads of `flaxen bench` as JSON, so that other engines can run the same tokens.

Usage: workloads.py VOCAB_SIZE [REPETITIONS] > workloads.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

from flaxen.benchmark.workloads import RequestBatch, Workload, make_workloads


def main() -> None:
    """Reads the two numbers; three repetitions where the second is not given."""
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    num_reps = int(sys.argv[2]) if len(sys.argv) == 3 else 3
    print(dump_workloads(make_workloads(int(sys.argv[1]), num_reps)))


def dump_workloads(workloads: dict[str, Workload]) -> str:
    """Returns the JSON that `flaxen.benchmark.workloads.load_workloads` reads."""
    entries = {
        name: {"desc": w.description, "reps": [_rep(batch) for batch in w.batches]}
        for name, w in workloads.items()
    }
    return json.dumps({"greedy": True, "ignore_eos": True, "workloads": entries})


def _rep(batch: RequestBatch) -> dict[str, Any]:
    rep: dict[str, Any] = {"prompts": batch.prompts, "out": batch.num_outputs}
    if batch.ttft_prompt is not None:
        rep["ttft_prompt"] = batch.ttft_prompt
    return rep


if __name__ == "__main__":
    main()
