"""Views: tensors made of other tensors, read in pieces, without a copy before reading.

Along the first axis a view reads only the requested rows, and keeps quantized rows and blocks as
stored.
Deliberately does not know rules, formats or models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from flaxen.tensors.packing.layout import WeightRows
from flaxen.tensors.tensor import BlockRows, QuantizedRows, StoredTensor


class Range(NamedTuple):
    """A range of rows of a tensor."""

    tensor: StoredTensor
    start: int
    stop: int


def rows_of(ranges: Sequence[Range]) -> StoredTensor:
    """Concatenates the rows of ranges.

    Args:
      ranges: at least one; the tensors' other axes must be equal.
    """
    if len(ranges) == 1 and ranges[0][1:] == (0, ranges[0].tensor.shape[0]):
        return ranges[0].tensor
    tensors = _distinct(ranges)

    def read(start: int, stop: int) -> np.ndarray:
        parts = [each.tensor.read(*each[1:]) for each in _cut(ranges, start, stop)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def read_quantized(start: int, stop: int) -> WeightRows:
        parts = []
        for each in _cut(ranges, start, stop):
            assert each.tensor.quantized is not None
            parts.append(each.tensor.quantized.read(*each[1:]))
        return _joined(parts)

    def read_blocks(start: int, stop: int) -> np.ndarray:
        parts = []
        for each in _cut(ranges, start, stop):
            assert each.tensor.blocks is not None
            parts.append(each.tensor.blocks.read(*each[1:]))
        return np.concatenate(parts)

    def columns(first: int, last: int) -> StoredTensor:
        of = {id(each): narrowed(each, 1, first, last) for each in tensors}
        return rows_of([Range(of[id(each.tensor)], each.start, each.stop) for each in ranges])

    kinds = {None if each.blocks is None else each.blocks.kind for each in tensors}
    kind = kinds.pop() if len(kinds) == 1 else None
    layouts = [None if each.quantized is None else each.quantized.layout for each in tensors]
    layout = layouts[0] if all(each == layouts[0] for each in layouts) else None
    order = None if tensors[0].quantized is None else tensors[0].quantized.order
    if layout is not None and not all(_is_order_of(each, order) for each in tensors):
        layout = None
    return StoredTensor(
        name=_name(tensors),
        shape=(sum(each.stop - each.start for each in ranges), *tensors[0].shape[1:]),
        dtype=tensors[0].dtype,
        num_bytes=sum(
            each.tensor.num_bytes * (each.stop - each.start) // each.tensor.shape[0]
            for each in ranges
        ),
        read=read,
        quantized=None
        if layout is None
        else QuantizedRows(layout=layout, read=read_quantized, order=order),
        row_unit=max(each.row_unit for each in tensors),
        blocks=None if kind is None else BlockRows(kind=kind, read=read_blocks),
        columns=columns if all(each.columns is not None for each in tensors) else None,
    )


def reordered(tensor: StoredTensor, order: np.ndarray) -> StoredTensor:
    """Reorders the rows within each unit of len(order) rows.

    Args:
      tensor: its number of rows must be a multiple of len(order).
      order: for each row of the result's unit, its index in the tensor's unit.
    """
    unit = len(order)

    def places(start: int, stop: int) -> tuple[int, int, np.ndarray]:
        """The units that contain some rows, and the indices of these rows in them."""
        first, last = start // unit * unit, -(-stop // unit) * unit
        units = np.arange(0, last - first, unit)
        return first, last, (units[:, None] + order).reshape(-1)[start - first : stop - first]

    def read(start: int, stop: int) -> np.ndarray:
        first, last, found = places(start, stop)
        rows: np.ndarray = tensor.read(first, last)[found]
        return rows

    quantized = tensor.quantized

    def read_quantized(start: int, stop: int) -> WeightRows:
        assert quantized is not None
        first, last, found = places(start, stop)
        return quantized.read(first, last).in_order(found)

    blocks = tensor.blocks

    def read_blocks(start: int, stop: int) -> np.ndarray:
        assert blocks is not None
        first, last, found = places(start, stop)
        rows: np.ndarray = blocks.read(first, last)[found]
        return rows

    def columns(first: int, last: int) -> StoredTensor:
        return reordered(narrowed(tensor, 1, first, last), order)

    return StoredTensor(
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        num_bytes=tensor.num_bytes,
        read=read,
        quantized=quantized and replace(quantized, read=read_quantized),
        blocks=blocks and BlockRows(kind=blocks.kind, read=read_blocks),
        row_unit=math.lcm(unit, tensor.row_unit),
        columns=None if tensor.columns is None else columns,
    )


def transposed(tensor: StoredTensor) -> StoredTensor:
    """Transposes a matrix. It is read whole, because its rows are not contiguous."""
    num_rows, num_columns = tensor.shape

    def read(start: int, stop: int) -> np.ndarray:
        return np.ascontiguousarray(tensor.read(0, num_rows)[:, start:stop].T)

    return StoredTensor(
        name=tensor.name,
        shape=(num_columns, num_rows),
        dtype=tensor.dtype,
        num_bytes=tensor.num_bytes,
        read=read,
        row_unit=num_columns,
    )


def stacked(tensors: Sequence[StoredTensor]) -> StoredTensor:
    """Stacks tensors of one shape along a new first axis."""

    def read(start: int, stop: int) -> np.ndarray:
        return np.stack([each.read(0, each.shape[0]) for each in tensors[start:stop]])

    return StoredTensor(
        name=_name(tensors),
        shape=(len(tensors), *tensors[0].shape),
        dtype=tensors[0].dtype,
        num_bytes=sum(each.num_bytes for each in tensors),
        read=read,
        entry=lambda index: tensors[index],
    )


def unstacked(tensor: StoredTensor) -> list[StoredTensor]:
    """The inverse: makes each entry of the first axis a tensor."""
    return [entry_of(tensor, index) for index in range(tensor.shape[0])]


def entry_of(tensor: StoredTensor, index: int) -> StoredTensor:
    """One entry of the first axis: as it is stored, if the tensor has its entries by themselves."""
    if tensor.entry is not None:
        return tensor.entry(index)

    def read(start: int, stop: int) -> np.ndarray:
        rows: np.ndarray = tensor.read(index, index + 1)[0, start:stop]
        return rows

    return StoredTensor(
        name=tensor.name,
        shape=tensor.shape[1:],
        dtype=tensor.dtype,
        num_bytes=tensor.num_bytes // tensor.shape[0],
        read=read,
    )


def narrowed(tensor: StoredTensor, axis: int, start: int, stop: int) -> StoredTensor:
    """Takes a range of an axis other than the first. Where the file can't be read so, whole rows
    are read, and a part of each is kept.
    """
    if axis == 1 and tensor.columns is not None:
        return tensor.columns(start, stop)
    kept = (*(slice(None),) * axis, slice(start, stop))

    def read(first: int, last: int) -> np.ndarray:
        rows: np.ndarray = tensor.read(first, last)[kept]
        return rows

    def entry(index: int) -> StoredTensor:
        own = entry_of(tensor, index)
        if axis > 1:
            return narrowed(own, axis - 1, start, stop)
        return rows_of([Range(own, start, stop)])

    shape = (*tensor.shape[:axis], stop - start, *tensor.shape[axis + 1 :])
    return StoredTensor(
        name=tensor.name,
        shape=shape,
        dtype=tensor.dtype,
        num_bytes=tensor.num_bytes * (stop - start) // tensor.shape[axis],
        read=read,
        entry=None if tensor.entry is None else entry,
    )


def joined(tensors: Sequence[StoredTensor], axis: int) -> StoredTensor:
    """Concatenates tensors along an axis other than the first."""

    def read(start: int, stop: int) -> np.ndarray:
        return np.concatenate([each.read(start, stop) for each in tensors], axis)

    first = tensors[0].shape
    shape = (*first[:axis], sum(each.shape[axis] for each in tensors), *first[axis + 1 :])
    return StoredTensor(
        name=_name(tensors),
        shape=shape,
        dtype=tensors[0].dtype,
        num_bytes=sum(each.num_bytes for each in tensors),
        read=read,
    )


def in_memory(name: str, values: np.ndarray) -> StoredTensor:
    """Makes a tensor of an array."""
    return StoredTensor(
        name=name,
        shape=values.shape,
        dtype=str(values.dtype),
        num_bytes=values.nbytes,
        read=lambda start, stop: values[start:stop],
    )


def _cut(ranges: Sequence[Range], start: int, stop: int) -> Iterator[Range]:
    """The parts of ranges that contain the rows from start to stop of their concatenation."""
    for tensor, begin, end in ranges:
        size = end - begin
        low, high = max(start, 0), min(stop, size)
        if low < high:
            yield Range(tensor, begin + low, begin + high)
        start, stop = start - size, stop - size


def _joined(parts: Sequence[WeightRows]) -> WeightRows:
    """Concatenates rows of one layout."""
    if len(parts) == 1:
        return parts[0]
    data, scales, mins = zip(*parts, strict=True)
    return WeightRows(
        np.concatenate(data),
        None if scales[0] is None else np.concatenate(scales),
        None if mins[0] is None else np.concatenate(mins),
    )


def _is_order_of(tensor: StoredTensor, order: np.ndarray | None) -> bool:
    """Whether a quantized tensor's inputs are stored in an order."""
    assert tensor.quantized is not None
    own = tensor.quantized.order
    return own is None if order is None else own is not None and np.array_equal(own, order)


def _distinct(ranges: Sequence[Range]) -> list[StoredTensor]:
    return list({id(each.tensor): each.tensor for each in ranges}.values())


def _name(tensors: Sequence[StoredTensor]) -> str:
    """The names of tensors in files, each once, for messages."""
    return ", ".join(dict.fromkeys(each.name for each in tensors))
