"""What data gives and training takes. Deliberately does not know where it came from."""

from __future__ import annotations

from typing import Any, NamedTuple

Array = Any  # data gives NumPy arrays; inside a jit they are JAX's


class Batch(NamedTuple):
    """B rows of T tokens; a row holds several sequences, segments, one after the other."""

    tokens: Array  # [B, T] int32
    targets: Array  # [B, T] int32: the token that follows in the segment; -1 where none does
    loss_weights: Array  # [B, T] float32, of each target's loss; 0 for none
    segment_ids: Array  # [B, T] int32: 1, 2, ... along a row; 0 is padding, at its end
    positions: Array  # [B, T] int32, from 0 in each segment


class PairBatch(NamedTuple):
    """Two batches of one segment a row: row i of both answers the same prompt."""

    chosen: Batch
    rejected: Batch
