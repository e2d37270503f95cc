"""Splits a batch into the microbatches of a step. Deliberately does not know what is trained."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np


def split_batch(batch: Any, num_microbatches: int, num_groups: int = 1) -> list[Any]:
    """Splits a batch into microbatches; every adapter of a stack gets all rows.

    Args:
      batch: a tree of arrays [B, ...].
      num_microbatches: must divide B.
      num_groups: the number of adapters that are trained at once.

    Returns:
      Trees of arrays [num_groups * B / num_microbatches, ...].

    Raises:
      ValueError: B is not a multiple of num_microbatches.
    """
    num_rows = jax.tree.leaves(batch)[0].shape[0]
    if num_rows % num_microbatches:
        raise ValueError(
            f"{num_rows} rows do not make {num_microbatches} equal microbatches: change one of "
            "the two"
        )
    size = num_rows // num_microbatches

    def part(number: int, leaf: np.ndarray) -> np.ndarray:
        rows = leaf[number * size : (number + 1) * size]
        return np.tile(rows, (num_groups,) + (1,) * (rows.ndim - 1))

    return [
        jax.tree.map(functools.partial(part, number), batch) for number in range(num_microbatches)
    ]
