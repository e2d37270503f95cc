"""Views of tensors whose numbers alternate: every second one of an axis, and the inverse.

Deliberately does not know what the numbers are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flaxen.tensors.tensor import StoredTensor
from flaxen.tensors.views import Range, entry_of, reordered, rows_of


def strided(tensor: StoredTensor, first: int) -> StoredTensor:
    """Every second number of the last axis, from `first` on."""

    def read(start: int, stop: int) -> np.ndarray:
        rows: np.ndarray = tensor.read(start, stop)[..., first::2]
        return rows

    def entry(index: int) -> StoredTensor:
        return strided(entry_of(tensor, index), first)

    return StoredTensor(
        name=tensor.name,
        shape=(*tensor.shape[:-1], tensor.shape[-1] // 2),
        dtype=tensor.dtype,
        num_bytes=tensor.num_bytes // 2,
        read=read,
        entry=None if tensor.entry is None else entry,
    )


def strided_rows(stack: StoredTensor, first: int) -> StoredTensor:
    """Every second row of each matrix of a stack, from `first` on; quantized rows stay so."""
    num_rows = stack.shape[1]
    order = np.concatenate([np.arange(0, num_rows, 2), np.arange(1, num_rows, 2)])
    half = num_rows // 2

    def read(start: int, stop: int) -> np.ndarray:
        rows: np.ndarray = stack.read(start, stop)[:, first::2]
        return rows

    def entry(index: int) -> StoredTensor:
        apart = reordered(entry_of(stack, index), order)
        return rows_of([Range(apart, first * half, (first + 1) * half)])

    return StoredTensor(
        name=stack.name,
        shape=(stack.shape[0], half, *stack.shape[2:]),
        dtype=stack.dtype,
        num_bytes=stack.num_bytes // 2,
        read=read,
        entry=entry,
    )


def alternated(tensors: Sequence[StoredTensor], axis: int) -> StoredTensor:
    """The inverse of both: the numbers of two tensors in turns along an axis, not the first."""

    def read(start: int, stop: int) -> np.ndarray:
        rows = np.stack([each.read(start, stop) for each in tensors], axis=axis + 1)
        return rows.reshape(rows.shape[0], *tensors[0].shape[1:axis], -1, *rows.shape[axis + 2 :])

    shape = tensors[0].shape
    return StoredTensor(
        name=", ".join(dict.fromkeys(each.name for each in tensors)),
        shape=(*shape[:axis], 2 * shape[axis], *shape[axis + 1 :]),
        dtype=tensors[0].dtype,
        num_bytes=sum(each.num_bytes for each in tensors),
        read=read,
    )
