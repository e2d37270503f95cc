"""Prints what this machine can do, in the figures that `flaxen bench` compares with."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from flaxen.benchmark.limits import measure_limits
from flaxen.benchmark.report import limits_line
from flaxen.kernels.choice import choose_backend


def main() -> None:
    """Measures for a few seconds; the last line is JSON."""
    limits = measure_limits("bfloat16", choose_backend())
    print(limits_line(limits), file=sys.stderr)
    print(json.dumps(asdict(limits)))


if __name__ == "__main__":
    main()
