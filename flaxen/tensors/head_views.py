"""Views of a matrix as one of each head, and back: read in pieces, as in `views`.

A quantized tensor is read as plain values. Deliberately does not know rules, formats or models.
"""

from __future__ import annotations

import numpy as np

from flaxen.tensors.tensor import StoredTensor


def by_head(tensor: StoredTensor, num_heads: int, *, is_turned: bool) -> StoredTensor:
    """Divides the rows into heads: [N * rows, columns] as [N, rows, columns].

    Args:
      tensor: a matrix.
      num_heads: N.
      is_turned: the result is [N, columns, rows].
    """
    rows, columns = tensor.shape[0] // num_heads, tensor.shape[1]

    def read(start: int, stop: int) -> np.ndarray:
        heads = tensor.read(start * rows, stop * rows).reshape(stop - start, rows, columns)
        return np.ascontiguousarray(heads.swapaxes(1, 2)) if is_turned else heads

    shape = (columns, rows) if is_turned else (rows, columns)
    return StoredTensor(
        name=tensor.name,
        shape=(num_heads, *shape),
        dtype=tensor.dtype,
        num_bytes=tensor.num_bytes,
        read=read,
    )


def flat_heads(tensor: StoredTensor, *, is_turned: bool) -> StoredTensor:
    """The inverse of `by_head`."""
    rows, columns = tensor.shape[:0:-1] if is_turned else tensor.shape[1:]

    def read(start: int, stop: int) -> np.ndarray:
        first, last = start // rows, -(-stop // rows)
        heads = tensor.read(first, last)
        heads = heads.swapaxes(1, 2) if is_turned else heads
        flat: np.ndarray = heads.reshape(-1, columns)[start - first * rows : stop - first * rows]
        return flat

    return StoredTensor(
        name=tensor.name,
        shape=(tensor.shape[0] * rows, columns),
        dtype=tensor.dtype,
        num_bytes=tensor.num_bytes,
        read=read,
        row_unit=rows,
    )
