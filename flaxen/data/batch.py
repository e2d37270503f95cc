"""The batches that `data` produces and `train` consumes. Knows nothing of where they came from."""

from __future__ import annotations

from typing import Any, NamedTuple

Array = Any  # NumPy arrays from `data`; JAX arrays inside a jit


class Batch(NamedTuple):
    """B rows of T tokens; each row packs several sequences (segments) one after the other."""

    tokens: Array  # [B, T] int32
    targets: Array  # [B, T] int32: the next token of the segment; -1 after its last token
    loss_weights: Array  # [B, T] float32: the weight of each target's loss; 0 for no loss
    segment_ids: Array  # [B, T] int32: 1, 2, ... along a row; 0 is padding, at its end
    positions: Array  # [B, T] int32: counted from 0 in each segment


class PairBatch(NamedTuple):
    """Two batches with one segment a row: row i of both answers the same prompt."""

    chosen: Batch
    rejected: Batch
