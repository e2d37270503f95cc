"""Workload L as a table for people and as figures for JSON.

Deliberately does not measure or judge.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from flaxen.benchmark.limits import Limits

from .show import summary
from .training import NUM_ROWS, ROW_LENGTH, TrainerOutcome

_HEADERS = (
    "tokens/s", "share of\nthe limit", "peak\nGiB", "first\nloss", "last\nloss", "steps",
    "first step\ns", "start\ns",
)  # fmt: skip


def limit_shares(tokens_s: Sequence[float], flops_per_token: float, limits: Limits) -> list[float]:
    """Each turn's share of the products that the machine could do."""
    return [speed * flops_per_token / limits.peak_flops for speed in tokens_s]


def trainers_table(
    outcomes: Sequence[TrainerOutcome], flops_per_token: float, limits: Limits
) -> Table:
    """A row for each trainer; speeds are medians.

    Args:
      outcomes: of all.
      flops_per_token: of a step.
      limits: the machine's.
    """
    caption = f"L: LoRA of rank 16 on all matrices, {NUM_ROWS} rows of {ROW_LENGTH} tokens a step"
    table = Table(box=box.SIMPLE, caption=caption, caption_justify="left")
    table.add_column("", no_wrap=True)
    for header in _HEADERS:
        table.add_column(header, justify="right", no_wrap=True)
    for outcome in outcomes:
        name = outcome.trainer.name + (" [red]failed[/]" if outcome.error else "")
        if not outcome.tokens_s:
            table.add_row(name, *["-"] * len(_HEADERS))
            continue
        shares = limit_shares(outcome.tokens_s, flops_per_token, limits)
        table.add_row(
            name,
            f"{statistics.median(outcome.tokens_s):.1f}",
            f"{statistics.median(shares):.0%}",
            f"{outcome.peak_rss_bytes / 2**30:.2f}",
            f"{outcome.losses[0]:.3f}",
            f"{outcome.losses[-1]:.3f}",
            str(len(outcome.losses)),
            f"{outcome.first_step_s:.1f}",
            f"{outcome.startup_s:.1f}",
        )
    return table


def trainers_as_figures(
    outcomes: Sequence[TrainerOutcome], flops_per_token: float, limits: Limits
) -> dict[str, Any]:
    """Every figure of the trainers, for JSON; arguments as `trainers_table`'s."""
    figures: dict[str, Any] = {}
    for outcome in outcomes:
        figures[outcome.trainer.name] = {
            "versions": outcome.versions,
            "startup_s": outcome.startup_s,
            "first_step_s": outcome.first_step_s,
            "peak_rss_bytes": outcome.peak_rss_bytes,
            "losses": outcome.losses,
            "error": outcome.error,
        }
        if outcome.tokens_s:
            shares = limit_shares(outcome.tokens_s, flops_per_token, limits)
            speeds = {"tokens_s": summary(outcome.tokens_s), "limit_share": summary(shares)}
            figures[outcome.trainer.name] |= speeds
    return figures
