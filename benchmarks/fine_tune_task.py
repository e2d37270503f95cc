"""SmolLM2 learns a small task: which part of SciPy a function is in, from what its docstring says.

The first lines of docstrings are the questions, the part's name is the answer; a sample that no
training record has is held out. `flaxen eval` scores the model on it before and after `flaxen
train`. About seven minutes on two slow cores. Prints a table and ends with one JSON line.

    python benchmarks/fine_tune_task.py [--write]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from docstrings import PACKAGE, describe, read_docstrings
from report import report

MODEL = "smollm2-135m"
PARTS = {
    "stats": "statistics", "signal": "signals", "optimize": "optimization",
    "linalg": "matrices", "ndimage": "images", "spatial": "geometry",
}  # fmt: skip
NUM_HELD_OUT, NUM_TRAINED = 16, 40  # of each part
SYSTEM = "Which field is it? Answer with one word: " + ", ".join(sorted(PARTS.values())) + "."
SETTINGS = {
    "optimizer.learning_rate": 1e-3,
    "schedule.name": "linear",
    "schedule.warmup_steps": 4,
    "lora.rank": 8,
    "lora.alpha": 16,
    "data.batch_size": 1,
    "data.sequence_length": 512,
    "data.epochs": 1,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flaxen-task-") as directory:
        figures = _run(Path(directory))
    print(f"\n{'':10}{'accuracy':>10}{'±':>8}")
    for when in ("before", "after"):
        print(f"{when:10}{figures[f'{when}_accuracy']:10.3f}{figures[f'{when}_stderr']:8.3f}")
    print(f"chance is {1 / len(PARTS):.3f}; {figures['num_questions']} questions held out")
    report("fine_tune_task", figures, write=args.write)


def _run(directory: Path) -> dict[str, Any]:
    held_out, trained = _split()
    questions, records = directory / "held-out.jsonl", directory / "train.jsonl"
    names = sorted(PARTS.values())
    _write(
        questions,
        [
            {"messages": _asked(text), "choices": names, "answer": names.index(PARTS[part])}
            for part, text in held_out
        ],
    )
    _write(
        records,
        [
            {"messages": [*_asked(text), {"role": "assistant", "content": PARTS[part]}]}
            for part, text in trained
        ],
    )
    output = directory / "out"
    before = _evaluate(questions)
    options = ["--data", str(records), "--output-dir", str(output)]
    for name, value in SETTINGS.items():
        options += ["--set", f"{name}={value}"]
    _flaxen("train", "--model", MODEL, *options)
    after = _evaluate(questions, "--adapter", str(output / "adapter"))
    steps = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return {
        "corpus": describe(),
        "model": MODEL,
        "num_records": len(trained),
        "num_questions": before["num_questions"],
        **{
            f"{when}_{name}": round(found[key], 4)
            for when, found in (("before", before), ("after", after))
            for name, key in (("accuracy", "acc"), ("stderr", "acc_stderr"))
        },
        "num_steps": len(steps),
        "num_tokens": sum(each["num_tokens"] for each in steps),
        "seconds": round(sum(each["seconds"] for each in steps), 1),
        "first_loss": round(steps[0]["loss"], 4),
        "last_loss": round(steps[-1]["loss"], 4),
        "settings": SETTINGS,
    }


def _split() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(part, first line) of functions and classes: a held-out and a training set, disjoint."""
    by_part: dict[str, list[str]] = defaultdict(list)
    seen: set[str] = set()
    for each in read_docstrings():
        line = each.text.split("\n\n")[0].replace("\n", " ").strip()
        is_said = f"{PACKAGE}." in line or each.part in line.lower()
        if each.name and not each.name.startswith("_") and line not in seen and not is_said:
            seen.add(line)
            if 20 <= len(line) <= 120:
                by_part[each.part].append(line)
    held_out, trained = [], []
    for part in PARTS:
        lines = by_part[part]
        wanted = NUM_HELD_OUT + NUM_TRAINED
        assert len(lines) >= wanted, f"{part} has only {len(lines)} lines"
        held_out += [(part, line) for line in lines[:NUM_HELD_OUT]]
        trained += [(part, line) for line in lines[NUM_HELD_OUT:wanted]]
    return held_out, trained


def _asked(line: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": line}]


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _evaluate(questions: Path, *options: str) -> dict[str, Any]:
    arguments = ["--data", str(questions), "--task", "choice", "--json", *options]
    found: dict[str, Any] = json.loads(_flaxen("eval", MODEL, *arguments))
    return found


def _flaxen(*arguments: str) -> str:
    """Runs a command, its progress on the terminal. Returns what it printed."""
    print(f"$ flaxen {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "flaxen", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main()
