"""Chooses the hyperparameters that a fine-tuning job leaves open, from its data. Pure arithmetic.

Deliberately does not know: files, models, where a job comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flaxen.data.validate import JobMethod

# The learning rate for a multiplier of 1; DPO needs about a tenth (arXiv:2305.18290 uses even
# less).
LEARNING_RATES: dict[JobMethod, float] = {"supervised": 2e-4, "dpo": 2e-5}
_ROW_MULTIPLE = 64  # tokens: few distinct row lengths, so that few are compiled
_SHORTEST_ROW = 256  # tokens; shorter records share a row
_MAX_BATCH = 8  # records, if the job does not say
_NUM_KEPT = 3  # checkpoints


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """The hyperparameters that a job requests; None leaves the choice to the plan."""

    n_epochs: int | None = None
    batch_size: int | None = None  # records
    learning_rate_multiplier: float | None = None
    beta: float | None = None  # DPO's


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """The final hyperparameters of a job, and sizes computed from its records."""

    n_epochs: int
    batch_size: int  # records of a step: exactly this many pairs, or about this many packed records
    learning_rate_multiplier: float
    beta: float | None
    row_length: int  # tokens
    rows_per_step: int


def make_plan(
    method: JobMethod, asked: Hyperparameters, lengths: Sequence[int], *, max_length: int
) -> JobPlan:
    """Chooses the hyperparameters that a job leaves open.

    Args:
      method: "supervised" packs records into rows; "dpo" has one pair in each row.
      asked: what the job asks for.
      lengths: the tokens of each record (of a pair's longer answer); at least one record.
      max_length: the most tokens of a row; longer records are cut.
    """
    batch_size = asked.batch_size or max(1, min(_MAX_BATCH, len(lengths) // 10))
    mean = sum(min(each, max_length) for each in lengths) / len(lengths)
    length = row_length(method, lengths, max_length=max_length, tokens=round(batch_size * mean))
    rows = max(1, round(batch_size * mean / length)) if method == "supervised" else batch_size
    return JobPlan(
        n_epochs=asked.n_epochs or 3,
        batch_size=batch_size,
        learning_rate_multiplier=asked.learning_rate_multiplier or 1.0,
        beta=None if method == "supervised" else asked.beta or 0.1,
        row_length=length,
        rows_per_step=rows,
    )


def row_length(
    method: JobMethod, lengths: Sequence[int], *, max_length: int, tokens: int = _SHORTEST_ROW
) -> int:
    """The shortest row length that fits the longest record.

    Args:
      method: as in make_plan.
      lengths: as in make_plan.
      max_length: as in make_plan.
      tokens: those of a step: a row for fewer would pack more records into a step than were asked.
    """
    shortest = min(_SHORTEST_ROW, tokens) if method == "supervised" else _ROW_MULTIPLE
    longest = max(min(max(lengths), max_length), shortest)
    return min(-(-longest // _ROW_MULTIPLE) * _ROW_MULTIPLE, max_length)


def checkpoint_steps(num_steps: int, n_epochs: int) -> list[int]:
    """The steps after which a model is saved: the ends of the last epochs."""
    ends = {max(1, round(epoch * num_steps / n_epochs)) for epoch in range(1, n_epochs + 1)}
    return sorted(ends)[-_NUM_KEPT:]
