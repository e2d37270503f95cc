"""`flaxen route train`: fits the head of a signal on an encoder, and says what it is worth."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flaxen.cli.machine import MachineOptions

if TYPE_CHECKING:
    from flaxen.learned_signals.head import Head


def train(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            help="domain, fact_check, user_feedback, jailbreak, pii, complexity, safety or "
            "classifier.",
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DATA.jsonl]",
            help='An object of JSON a line: {"text": "...", "label": "..."}; "labels" where a text '
            'may have several, "group" for texts that are alike.',
            show_default="examples that are made from templates",
        ),
    ] = None,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="HEAD", help="The head's file.")
    ],
    encoder: Annotated[
        str, typer.Option(metavar="MODEL", help="The encoder that the head is for.")
    ] = "minilm",
    seed: Annotated[
        int, typer.Option(help="Divides the examples; the same seed gives the same head.")
    ] = 0,
    false_alarms: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=0.5,
            help="The share of texts without a label that may reach its threshold.",
        ),
    ] = 0.01,
    machine: MachineOptions,
) -> None:
    """Train the head of a router's signal, in minutes on a CPU."""
    from flaxen.learned_signals.examples import make_examples, read_examples
    from flaxen.learned_signals.head import TASKS

    if task not in TASKS:
        raise ValueError(f"the task {task!r} is unknown: use one of {', '.join(TASKS)}")
    examples = make_examples(task) if data is None else read_examples(data)
    machine.set_up()

    from flaxen.learned_signals.encoder import OpenEncoder
    from flaxen.learned_signals.head_file import save_head
    from flaxen.learned_signals.training import train as train_head

    with OpenEncoder(encoder, offline=machine.offline) as opened:
        head = asyncio.run(train_head(task, examples, opened, seed=seed, false_alarms=false_alarms))
    save_head(head, output)
    print(describe(head))
    print(f"wrote {output}")


def describe(head: Head) -> str:
    """The report of a head, as lines."""
    report: Mapping[str, Any] = head.report
    parts = ", ".join(f"{number} {part}" for part, number in report["examples"].items())
    lines = [
        f"{head.task}: {parts}",
        f"accuracy {report['accuracy']:.1%}, temperature {head.temperature:.2f}",
        "",
        "  label                       texts  threshold  recall  false alarms",
    ]
    for label, found in report["labels"].items():
        recall, alarms = (
            "-" if found[name] is None else f"{found[name]:.1%}"
            for name in ("recall", "false_alarms")
        )
        threshold = head.thresholds[label]
        lines.append(f"  {label:26} {found['texts']:6} {threshold:10.3f} {recall:>7} {alarms:>13}")
    error = report["calibration"]["mean_error"]
    lines += ["", f"  probability  right  texts  (they differ by {error:.3f} in the mean)"]
    for point in report["calibration"]["curve"]:
        lines.append(f"  {point['probability']:11.2f} {point['right']:6.2f} {point['texts']:6}")
    return "\n".join(lines)
