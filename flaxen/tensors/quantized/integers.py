"""Weights of four- or eight-bit numbers with scales, as one stored tensor [out, in] each.

The numbers are kept as the file has them wherever the kernels' form can hold their values exactly.
Deliberately does not know how files pack them: see the readers beside this file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flaxen.tensors.packing.layout import WORD_VALUES, Layout, WeightRows, words
from flaxen.tensors.quantized.groups import by_input, finer, kept_group, spread
from flaxen.tensors.tensor import QuantizedRows, StoredTensor

_MIDDLE = 8  # four-bit numbers are kept as 0 to 15: what stands for the signed number 0
_FLOAT, _HALF = np.dtype(np.float32), np.dtype(np.float16)


class Integers(NamedTuple):
    """Rows of a weight with

      value(o, i) = scales(o, i // group) * (numbers(o, i) - zeros(o, i // group)).

    With an order of inputs, the k-th stored input is input order[k] of the layer.
    """

    numbers: np.ndarray  # int8 [rows, in]; of four bits or fewer they lie from -8 to 7
    scales: np.ndarray  # [rows, groups]
    zeros: np.ndarray | None = None  # [rows, groups], from -128 to 127; None for zeros


@dataclass(frozen=True, kw_only=True)
class IntegerWeight:
    """What is known of a weight before its numbers are read."""

    name: str
    shape: tuple[int, int]  # (out, in)
    bits: int  # 4 or 8
    group: int  # inputs that share a scale; all of them if there is one scale
    scale_dtype: np.dtype  # in the file
    has_zeros: bool
    num_bytes: int  # in the file
    row_unit: int = 1  # rows are best read in multiples of this
    order: np.ndarray | None = None  # int32 [in]; None if inputs are stored in their own order


def integer_tensor(weight: IntegerWeight, read: Callable[[int, int], Integers]) -> StoredTensor:
    """Makes a stored tensor.

    Args:
      weight: what it is.
      read: reads rows from start to stop; thread-safe.
    """

    def read_floats(start: int, stop: int) -> np.ndarray:
        return _floats(read(start, stop), weight)

    layout = _layout(weight)

    def read_kept(start: int, stop: int) -> WeightRows:
        assert layout is not None
        return _kept(read(start, stop), weight, layout)

    quantized = None
    if layout is not None:
        quantized = QuantizedRows(layout=layout, read=read_kept, order=weight.order)
    return StoredTensor(
        name=weight.name,
        shape=weight.shape,
        dtype=f"int{weight.bits}",
        num_bytes=weight.num_bytes,
        read=read_floats,
        quantized=quantized,
        row_unit=weight.row_unit,
    )


def _layout(weight: IntegerWeight) -> Layout | None:
    """The layout that holds the weight's values exactly; None if there is none.

    A zero of a group's own becomes a minimum, -scale * zero: exact in float32 if the scale has 16
    bits. Else four-bit numbers take eight bits, with their zeros subtracted.
    """
    num_inputs = weight.shape[1]
    group = kept_group(num_inputs, weight.group)
    if group is None:
        return None
    is_wide = weight.scale_dtype == _FLOAT
    if weight.has_zeros and is_wide:
        if weight.bits > 4:
            return None
        return Layout(format="int8", group=group, scale_dtype=_FLOAT)
    if weight.bits <= 4 and num_inputs % WORD_VALUES:
        return None
    scale_dtype = _HALF if weight.scale_dtype == _HALF and not weight.has_zeros else _FLOAT
    return Layout(
        format="int4" if weight.bits <= 4 else "int8",
        group=group,
        zero=_MIDDLE if weight.bits <= 4 and not weight.has_zeros else 0,
        scale_dtype=scale_dtype,
        has_mins=weight.has_zeros,
    )


def _kept(rows: Integers, weight: IntegerWeight, layout: Layout) -> WeightRows:
    times = -(-weight.group // layout.group)
    num_groups = weight.shape[1] // layout.group
    numbers, zeros = rows.numbers, rows.zeros
    scales = finer(rows.scales, times, num_groups).astype(layout.scale_dtype)
    if layout.format == "int8":
        if zeros is not None and not layout.has_mins:
            return WeightRows(numbers - by_input(zeros, weight.group, numbers.shape[1]), scales)
        return WeightRows(numbers, scales, _mins(scales, zeros, times, num_groups, 0))
    nibbles = np.ascontiguousarray((numbers + np.int8(_MIDDLE)).view(np.uint8))
    packed = words(nibbles.view(np.uint64))
    return WeightRows(packed, scales, _mins(scales, zeros, times, num_groups, _MIDDLE))


def _mins(
    scales: np.ndarray, zeros: np.ndarray | None, times: int, num_groups: int, middle: int
) -> np.ndarray | None:
    if zeros is None:
        return None
    moved = finer(zeros, times, num_groups).astype(np.float32) + np.float32(middle)
    mins: np.ndarray = scales * -moved
    return mins


def _floats(rows: Integers, weight: IntegerWeight) -> np.ndarray:
    num_inputs = weight.shape[1]
    values = rows.numbers.astype(np.float32)
    if rows.zeros is not None:
        values -= by_input(rows.zeros, weight.group, num_inputs).astype(np.float32)
    values *= by_input(rows.scales.astype(np.float32), weight.group, num_inputs)
    return spread(values, weight.order)
