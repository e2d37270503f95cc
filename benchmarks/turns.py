"""Two commits of flaxen, measured in turns: the speed of this one over that of the earlier one.

Both are checkouts with an environment of their own (`make demo`). Each round runs both, and the
next round in the other order, so that what else the machine does falls on both; what counts is the
median of the rounds' ratios.

    python benchmarks/turns.py BEFORE [--rounds 3] [--workload A --workload B16] [--write NAME]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
MODEL = "smollm2-135m"
SIDES = ("before", "after")
FIGURES = ("decode_tok_s", "prompt_tok_s", "output_tok_s", "e2e_tok_s", "ttft_ms")

Figures = dict[str, float]


def run_bench(checkout: Path, workloads: Sequence[str], cache: Path, options: list[str]) -> Figures:
    """Runs `flaxen bench` once. Returns its figures by "workload.figure", and its start-up time."""
    command = [str(checkout / ".venv/bin/python"), "-m", "flaxen", "bench", MODEL]
    chosen = [word for name in workloads for word in ("--workload", name)]
    environment = {**os.environ, "FLAXEN_CACHE": str(cache)}
    done = subprocess.run(
        [*command, *chosen, "--reps", "1", *options],
        cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return read_figures(json.loads(done.stdout.splitlines()[-1]))


def read_figures(bench: dict[str, Any]) -> Figures:
    """The figures that are compared, of the JSON that `flaxen bench` prints."""
    figures = {"startup_s": float(bench["startup_s"])}
    figures["peak_rss_mb"] = bench["peak_rss_bytes"] / 1e6
    for name, workload in bench["workloads"].items():
        for figure in FIGURES:
            if figure in workload:
                figures[f"{name}.{figure}"] = workload[figure]["median"]
        figures[f"{name}.kv_waste"] = workload["kv_waste"]
    return figures


def run_scheduler(checkout: Path) -> Figures:
    """The scheduler's microseconds per sequence and step, by the number of sequences."""
    done = subprocess.run(
        [str(checkout / ".venv/bin/python"), "benchmarks/scheduler.py"],
        cwd=checkout, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    figures = json.loads(done.stdout.splitlines()[-1])["figures"]
    return {name: float(value) for name, value in figures.items() if "_us_" in name}


def compare(rounds: Sequence[dict[str, Figures]]) -> dict[str, dict[str, float]]:
    """For each figure the median of both sides, and of after/before with its least and most.

    Args:
      rounds: each round's figures of "before" and of "after".
    """
    compared = {}
    for name in rounds[0]["before"]:
        before = [each["before"][name] for each in rounds]
        after = [each["after"][name] for each in rounds]
        compared[name] = {
            "before": statistics.median(before),
            "after": statistics.median(after),
        }
        if all(before):
            ratios = [new / old for old, new in zip(before, after, strict=True)]
            compared[name] |= {
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
            }
    return compared


def main() -> None:
    """Reads the arguments, runs both sides in turns, prints the ratios and a line of JSON."""
    from report import report  # found where this runs as a script, not where tests import it

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="the other checkout, with its .venv")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workload", action="append", default=None, help="A, B16, B64, C, D, E")
    parser.add_argument("--option", action="append", default=[], help="of both, as --dtype=float32")
    parser.add_argument("--write", metavar="NAME", help="also keep benchmarks/results/NAME.json")
    arguments = parser.parse_args()
    checkouts = {"before": arguments.before.resolve(), "after": HERE}
    workloads = arguments.workload or ["A", "B16", "D"]
    rounds: list[dict[str, Figures]] = []
    with tempfile.TemporaryDirectory() as directory:
        for number in range(arguments.rounds + 1):
            this: dict[str, Figures] = {}
            for side in SIDES if number % 2 else SIDES[::-1]:
                cache = Path(directory) / side
                figures = run_bench(checkouts[side], workloads, cache, arguments.option)
                this[side] = figures | run_scheduler(checkouts[side])
            rounds.append(this)
    # Nothing had been compiled before the first round: its start is the cold one, and counts apart.
    cold = {side: {"cold_startup_s": rounds[0][side]["startup_s"]} for side in SIDES}
    compared = compare(rounds[1:]) | compare([cold])
    for name, line in compared.items():
        print("  ".join(f"{key} {value:.3f}" for key, value in line.items()), name)
    kept: dict[str, object] = {"rounds": arguments.rounds, "model": MODEL, "compared": compared}
    report(arguments.write or "turns", kept, write=arguments.write is not None)


if __name__ == "__main__":
    main()
