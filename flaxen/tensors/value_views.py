"""Views of tensors with other values, or with the same values in another shape.

They are plain: nothing quantized is kept. Deliberately does not know rules, formats or models.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flaxen.tensors.tensor import StoredTensor


def shifted(tensor: StoredTensor, by: float) -> StoredTensor:
    """Adds a number to each value, in float32."""
    return mapped(tensor, lambda values: values + np.float32(by))


def mapped(tensor: StoredTensor, change: Callable[[np.ndarray], np.ndarray]) -> StoredTensor:
    """Applies a function of numbers to each value, in float32."""

    def read(start: int, stop: int) -> np.ndarray:
        return change(tensor.read(start, stop).astype(np.float32))

    return StoredTensor(
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        num_bytes=tensor.num_bytes,
        read=read,
        row_unit=tensor.row_unit,
    )


def log_of_negated(values: np.ndarray) -> np.ndarray:
    """The inverse of -exp.

    Raises:
      ValueError: a value is above 0.
    """
    if (values > 0).any():
        raise ValueError(f"a decay must be below 0, got {values.max():g}: a damaged file")
    with np.errstate(divide="ignore"):  # -0 is a decay at once
        found: np.ndarray = np.log(-values)
    return found


def flat_rows(tensor: StoredTensor) -> StoredTensor:
    """A matrix as a vector, row after row."""
    num_rows, row = tensor.shape

    def read(start: int, stop: int) -> np.ndarray:
        first = start // row
        rows = tensor.read(first, -(-stop // row)).reshape(-1)
        values: np.ndarray = rows[start - first * row : stop - first * row]
        return values

    return StoredTensor(
        name=tensor.name,
        shape=(num_rows * row,),
        dtype=tensor.dtype,
        num_bytes=tensor.num_bytes,
        read=read,
    )


def in_rows(tensor: StoredTensor, num_rows: int) -> StoredTensor:
    """The inverse: a vector as a matrix of so many rows."""
    row = tensor.shape[0] // num_rows

    def read(start: int, stop: int) -> np.ndarray:
        return tensor.read(start * row, stop * row).reshape(-1, row)

    return StoredTensor(
        name=tensor.name,
        shape=(num_rows, row),
        dtype=tensor.dtype,
        num_bytes=tensor.num_bytes,
        read=read,
    )


def without_axis(tensor: StoredTensor) -> StoredTensor:
    """Drops the second axis, which must have the size 1."""
    assert tensor.shape[1] == 1, f"{tensor.name} has the shape {tensor.shape}"
    return _reshaped(tensor, (tensor.shape[0], *tensor.shape[2:]))


def with_axis(tensor: StoredTensor) -> StoredTensor:
    """The inverse: inserts a second axis of the size 1."""
    return _reshaped(tensor, (tensor.shape[0], 1, *tensor.shape[1:]))


def _reshaped(tensor: StoredTensor, shape: tuple[int, ...]) -> StoredTensor:
    def read(start: int, stop: int) -> np.ndarray:
        return tensor.read(start, stop).reshape(-1, *shape[1:])

    return StoredTensor(
        name=tensor.name, shape=shape, dtype=tensor.dtype, num_bytes=tensor.num_bytes, read=read
    )
