"""Prints the workloads of `flaxen bench` as JSON, so that other engines can run the same tokens.

Usage: workloads.py VOCAB_SIZE [REPETITIONS] > workloads.json
"""

from __future__ import annotations

import sys

from flaxen.benchmark.workloads import dump_workloads, make_workloads


def main() -> None:
    """Reads the two numbers; three repetitions where the second is not given."""
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    num_reps = int(sys.argv[2]) if len(sys.argv) == 3 else 3
    print(dump_workloads(make_workloads(int(sys.argv[1]), num_reps)))


if __name__ == "__main__":
    main()
