"""Says what the data of a run are, and how many steps packing makes of them.

Deliberately does not know how records are packed.
"""

from __future__ import annotations

from flaxen.data.corpus import CorpusReport
from flaxen.data.iterate import Remaining
from flaxen.training.config import TrainConfig

_FEW = 10  # steps; with fewer a model hardly changes


def describe_plan(
    config: TrainConfig, report: CorpusReport, left: Remaining | None, num_steps: int
) -> str:
    """Describes the data and the steps of a run, in one line.

    Args:
      config: the run, with both sizes of its batches.
      report: the records.
      left: what is left of the data; None if they are read as often as num_steps needs.
      num_steps: the steps of the run.
    """
    size, length = config.data.batch_size or 0, config.data.sequence_length
    records = count(report.num_records - report.num_bad, "record")
    if left is None:
        return f"{records}; {count_steps(num_steps)} of {count(size, 'row')} of {length} tokens"
    epochs = config.data.epochs or 1
    times = "" if epochs == 1 else f" x {epochs} epochs"
    said = (
        f"{records}{times}: {count(left.num_tokens, 'token')} in {count(left.num_rows, 'row')} of "
        f"{length}; with {count(size, 'row')} a step that is {count_steps(left.num_batches)}"
    )
    if num_steps >= _FEW:
        return said
    fewer = " or a smaller batch_size" if size > 1 else ""
    return f"{said}. These are few: more epochs{fewer} make more of them"


def count_steps(number: int) -> str:
    """A number of steps as text."""
    return count(number, "step")


def count(number: int, what: str) -> str:
    """A number of things as text."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
