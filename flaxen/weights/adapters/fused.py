"""Adapters of matrices that a file has fused into one module: joined when written, taken apart when
read. Deliberately does not know names, configurations or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from flaxen.weights.adapters.modules import Rows

Pair = Mapping[str, np.ndarray]  # a [I, R] and b [R, O]


def is_alone(targets: Sequence[Rows]) -> bool:
    """Whether a module is one target, with its outputs in the target's order."""
    return len(targets) == 1 and np.array_equal(targets[0].rows, np.arange(targets[0].num_rows))


def joined(pairs: Sequence[Pair], places: Sequence[Rows]) -> dict[str, np.ndarray]:
    """One adapter of a module, from one of each target in it.

    Each target keeps its own columns of a, so that the rank is the sum of theirs; outputs without
    an adapter are zero.

    Args:
      pairs: the targets' adapters.
      places: their outputs among the module's.

    Returns:
      a [I, R in all] and b [R in all, num_rows].
    """
    a = np.concatenate([np.asarray(pair["a"]) for pair in pairs], axis=1)
    b = np.zeros((a.shape[1], places[0].num_rows), np.float32)
    start = 0
    for pair, place in zip(pairs, places, strict=True):
        own = np.asarray(pair["b"])
        b[start : start + own.shape[0], place.rows] = own
        start += own.shape[0]
    return {"a": a, "b": b}
