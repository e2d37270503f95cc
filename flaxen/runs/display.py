"""Shows a run's progress: a live line on a terminal, otherwise a line every few seconds.

Deliberately does not know training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

if TYPE_CHECKING:
    from flaxen.data.corpus import CorpusReport

_SECONDS_BETWEEN_LINES = 10.0

OnRecord = Callable[[Mapping[str, Any]], None]


@contextmanager
def show_training(console: Console, num_steps: int) -> Iterator[OnRecord]:
    """Yields a function that shows the record of a step.

    Args:
      console: the output.
      num_steps: the steps of the run.
    """
    if not console.is_terminal:
        yield _Lines(console, num_steps).show
        return
    with Progress(BarColumn(), TextColumn("{task.description}"), console=console) as progress:
        bar = progress.add_task("the first step is being compiled", total=num_steps)

        def show(record: Mapping[str, Any]) -> None:
            line = describe(record, num_steps)
            progress.update(bar, completed=record["step"], description=line)

        yield show


def describe(record: Mapping[str, Any], num_steps: int) -> str:
    """One line of a step's record."""
    return (
        f"step {record['step']}/{num_steps}  loss {_numbers(record['loss'])}  "
        f"{record['tokens_per_second']:,.0f} tokens/s  MFU {record['mfu']:.1%}  "
        f"{_duration(record['seconds_left'])} left"
    )


def describe_data(report: CorpusReport) -> str:
    """Describes skipped and cut records; empty if there are none."""
    parts = []
    if report.num_bad:
        more = "; ..." if report.num_bad > len(report.bad) else ""
        parts.append(
            f"{report.num_bad} of {report.num_records} records skipped ({'; '.join(report.bad)}"
            f"{more})"
        )
    if report.num_truncated:
        parts.append(f"{report.num_truncated} cut to sequence_length")
    return ", ".join(parts)


class _Lines:
    """Prints the first step, the last, and one every few seconds. Final."""

    def __init__(self, console: Console, num_steps: int) -> None:
        self._console, self._num_steps = console, num_steps
        self._last = float("-inf")

    def show(self, record: Mapping[str, Any]) -> None:
        now = time.monotonic()
        is_due = now - self._last >= _SECONDS_BETWEEN_LINES
        if is_due or record["step"] == self._num_steps:
            self._last = now
            self._console.print(describe(record, self._num_steps), soft_wrap=True, highlight=False)


def _numbers(value: float | list[float]) -> str:
    return " ".join(f"{each:.4f}" for each in (value if isinstance(value, list) else [value]))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
