"""Which of several models are in memory before the server answers."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flaxen.model_pool.pool import ModelPool


class LoadAtStart(enum.StrEnum):
    """Which models are loaded before the server answers."""

    FIRST = "first"
    ALL = "all"
    NONE = "none"


def load_at_start(pool: ModelPool, which: LoadAtStart) -> None:
    """Loads the first model, or as many as fit, before the server runs.

    Raises:
      ValueError: all were asked for, and they don't fit at once.
    """
    if which is LoadAtStart.NONE:
        return
    chosen = pool.slots if which is LoadAtStart.ALL else pool.slots[:1]
    needed = sum(slot.model.num_bytes for slot in chosen)
    if needed > pool.budget_bytes:
        raise ValueError(
            f"--load-at-start all needs {needed / 2**20:,.1f} MiB, and the memory for models is "
            f"{pool.budget_bytes / 2**20:,.1f} MiB: raise --models-memory, or leave it out, and "
            "models take turns"
        )
    for slot in chosen:
        pool.load_at_start(slot)
