"""Packs sequences into rows and rows into batches. Sequences of a row never see each other.

Deliberately does not know: where sequences come from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flaxen.data.batch import Batch, PairBatch
from flaxen.data.encode import TokenSequence

PackedRow = tuple[TokenSequence, ...]


def pack(sequences: Sequence[TokenSequence], length: int, max_segments: int) -> list[PackedRow]:
    """Puts each sequence, in turn, into the fullest row that has room for it (best fit).

    Args:
      sequences: each with at most `length` inputs.
      length: the inputs of a row.
      max_segments: the most sequences in a row.
    """
    rows: list[list[TokenSequence]] = []
    free: list[int] = []
    open_rows: list[int] = []
    for sequence in sequences:
        size = sequence.num_inputs
        assert 0 < size <= length
        taking = [i for i in open_rows if free[i] >= size]
        if taking:
            index = min(taking, key=free.__getitem__)
        else:
            index = len(rows)
            rows.append([])
            free.append(length)
            open_rows.append(index)
        rows[index].append(sequence)
        free[index] -= size
        if not free[index] or len(rows[index]) == max_segments:
            open_rows.remove(index)
    return [tuple(row) for row in rows]


def collate(rows: Sequence[PackedRow], batch_size: int, length: int) -> Batch:
    """Makes a batch of rows; missing rows are filled with padding.

    Args:
      rows: at most `batch_size`.
      batch_size: B.
      length: T.
    """
    shape = (batch_size, length)
    batch = Batch(
        tokens=np.zeros(shape, np.int32),
        targets=np.full(shape, -1, np.int32),
        loss_weights=np.zeros(shape, np.float32),
        segment_ids=np.zeros(shape, np.int32),
        positions=np.zeros(shape, np.int32),
    )
    for i, row in enumerate(rows):
        begin = 0
        for segment, sequence in enumerate(row, 1):
            size = sequence.num_inputs
            where = (i, slice(begin, begin + size))
            batch.tokens[where] = sequence.tokens[:-1]
            batch.targets[where] = sequence.tokens[1:]
            batch.loss_weights[where] = sequence.weights[1:]
            batch.segment_ids[where] = segment
            batch.positions[where] = np.arange(size, dtype=np.int32)
            begin += size
    return batch


def collate_pairs(rows: Sequence[PackedRow], batch_size: int, length: int) -> PairBatch:
    """Collates rows that are pairs (chosen, rejected); see `collate`."""
    return PairBatch(
        chosen=collate([(chosen,) for chosen, _ in rows], batch_size, length),
        rejected=collate([(rejected,) for _, rejected in rows], batch_size, length),
    )
