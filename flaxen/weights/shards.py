"""Loads a parameter straight onto the devices of a mesh: each of its parts is read by itself.

A process reads only what its own devices hold, and holds no more of a parameter than that.
Deliberately does not know file formats, rules or families.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from flaxen.sharding.parts import Box, assemble, own_boxes
from flaxen.tensors.tensor import StoredTensor, row_ranges
from flaxen.tensors.views import narrowed
from flaxen.weights.sources import Source

# Reads rows of a tensor, in the precision of the parameter: (tensor, start, stop).
ReadRows = Callable[[StoredTensor, int, int], np.ndarray]


class _Part(NamedTuple):
    """A part of a stored tensor, and the array that it is read into."""

    box: Box
    rows: np.ndarray


def load_shards(
    source: Source,
    dtype: np.dtype,
    sharding: jax.sharding.Sharding,
    read: ReadRows,
    num_values: int,
) -> jax.Array:
    """Reads this process's parts of a parameter, and puts each on its devices.

    Args:
      source: the parameter's.
      dtype: of the array.
      sharding: where the parts are.
      read: reads rows of the stored tensor, or of a range of its columns.
      num_values: about as many values are read at once.
    """
    shape = source.spec.shape
    found = read_parts(
        source, list(own_boxes(sharding, shape)), dtype=dtype, read=read, num_values=num_values
    )
    array = assemble(shape, sharding, found, dtype)
    array.block_until_ready()  # else parts would wait in the host's memory for slower devices
    return array


def read_parts(
    source: Source, boxes: Sequence[Box], *, dtype: np.dtype, read: ReadRows, num_values: int
) -> dict[Box, np.ndarray]:
    """Reads parts of a parameter; what several of them need is read once.

    Args:
      source: the parameter's.
      boxes: the parts.
      dtype: of the result.
      read: as in `load_shards`.
      num_values: as in `load_shards`.
    """
    if not boxes:  # a parameter of a pipeline stage on other processes
        return {}
    found = {box: np.empty(box.shape, dtype) for box in boxes}
    parts = [_stored_part(box, out, source.transposed) for box, out in found.items()]
    stored, parts = _without_other_columns(source.stored, parts)
    for first, last in _row_intervals([part.box for part in parts]):
        for start, stop in row_ranges(stored, num_values, first=first, last=last):
            rows = read(stored, start, stop)
            for part in parts:
                _fill(part, rows, start, stop)
    return found


def _stored_part(box: Box, out: np.ndarray, is_transposed: bool) -> _Part:
    if not is_transposed:
        return _Part(box, out)
    start, stop = ((*each[:-2], each[-1], each[-2]) for each in box)
    return _Part(Box(start, stop), out.swapaxes(-1, -2))


def _without_other_columns(
    stored: StoredTensor, parts: list[_Part]
) -> tuple[StoredTensor, list[_Part]]:
    """The range of a matrix's columns that has all parts, if the file can be read so."""
    if len(stored.shape) != 2 or stored.columns is None:
        return stored, parts
    low = min(part.box.start[1] for part in parts)
    high = max(part.box.stop[1] for part in parts)
    if high - low == stored.shape[1]:
        return stored, parts

    def moved(box: Box) -> Box:
        (first, left), (last, right) = box
        return Box((first, left - low), (last, right - low))

    return narrowed(stored, 1, low, high), [_Part(moved(box), rows) for box, rows in parts]


def _row_intervals(boxes: Sequence[Box]) -> Iterator[tuple[int, int]]:
    """The rows that parts need, as ranges that do not touch each other."""
    bounds = sorted((box.start[0], box.stop[0]) for box in boxes)
    first, last = bounds[0]
    for start, stop in bounds[1:]:
        if start > last:
            yield first, last
            first = start
        last = max(last, stop)
    yield first, last


def _fill(part: _Part, rows: np.ndarray, start: int, stop: int) -> None:
    """Puts the rows from start to stop into a part, as far as it has them."""
    low, high = max(start, part.box.start[0]), min(stop, part.box.stop[0])
    if low < high:
        inner = part.box.slices[1:]
        part.rows[low - part.box.start[0] : high - part.box.start[0]] = rows[
            (slice(low - start, high - start), *inner)
        ]
