"""Quantized rows as the plain arrays [I, O] of a `QuantizedLinear`, or of its parts on a mesh.

The parts that several boxes need of a row are made of one reading of it. Deliberately does not know
files, nor which weights are quantized.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import ml_dtypes
import numpy as np

from flaxen.kernels.linear.quantized import QuantizedLinear
from flaxen.sharding.parts import Box, assemble
from flaxen.sharding.placement import Placement
from flaxen.sharding.putting import put
from flaxen.tensors.packing.layout import WORD_VALUES, Layout, WeightRows, apart

_MIDDLE = 8  # int4 arrays are signed: they hold four-bit numbers less this


def fill_parts(
    shape: tuple[int, int],
    layout: Layout,
    boxes: Sequence[Box],
    rows: Iterable[tuple[int, WeightRows]],
) -> dict[Box, QuantizedLinear]:
    """Makes parts of a weight, with NumPy arrays as leaves.

    Args:
      shape: (I, O) of the whole weight.
      layout: of its rows, which are quantized.
      boxes: the parts, in a weight [I, O]. They cut no group, unless there is only one.
      rows: each with the index of its first row, which is an output.
    """
    found = {box: _empty(box, shape, layout) for box in boxes}
    for start, each in rows:
        numbers = _numbers(each.data, layout) if _has_words(layout) else each.data
        own_scales = None if each.scales is None else _as_floats(each.scales)
        for box, part in found.items():
            low, high = max(start, box.start[1]), min(start + len(numbers), box.stop[1])
            if low < high:
                own, groups = slice(low - start, high - start), group_box(box, shape, layout)
                to = slice(low - box.start[1], high - box.start[1])
                inputs = slice(box.start[0], box.stop[0])
                part.data[:, to] = apart(numbers[own, inputs]).T
                for leaf, given in ((part.scales, own_scales), (part.mins, each.mins)):
                    if leaf is not None and given is not None:
                        leaf[:, to] = given[own, groups.start[0] : groups.stop[0]].T
    return found


def group_box(box: Box, shape: tuple[int, int], layout: Layout) -> Box:
    """The part of the scales [I/group, O] that belongs to a part of a weight [I, O]."""
    (first, left), (last, right) = box
    if layout.group == shape[0]:
        return Box((0, left), (1, right))
    return Box((first // layout.group, left), (last // layout.group, right))


def put_parts(
    parts: Mapping[Box, QuantizedLinear],
    shape: tuple[int, int],
    layout: Layout,
    shardings: QuantizedLinear | None,
    placement: Placement | None,
    order: np.ndarray | None = None,
) -> QuantizedLinear:
    """Moves the parts of a weight to their devices, with four-bit numbers two in a byte.

    Args:
      parts: from `fill_parts`: all of this process, or the whole weight; none where this process
        has no part.
      shape: (I, O) of the whole weight.
      layout: of its rows.
      shardings: where each array's parts are, as leaves; None is the default device.
      placement: the mesh; None is one device.
      order: of the inputs, as QuantizedLinear has it: whole on every device.
    """
    if shardings is None or placement is None:
        (whole,) = parts.values()
        placed: QuantizedLinear = jax.device_put(replace(_in_dtype(whole, layout), order=order))
        return placed
    num_groups, scale_dtype = shape[0] // layout.group, array_scale_dtype(layout)
    by_group = {group_box(box, shape, layout): part for box, part in parts.items()}
    of_groups = (num_groups, shape[1])
    data: dict[Box, Any] = {box: _in_dtype(part, layout).data for box, part in parts.items()}
    scales: dict[Box, Any] = {box: part.scales for box, part in by_group.items()}
    mins: dict[Box, Any] = {box: part.mins for box, part in by_group.items()}
    array = QuantizedLinear(
        data=assemble(shape, shardings.data, data, array_dtype(layout)),
        scales=assemble(of_groups, shardings.scales, scales, scale_dtype),
        mins=assemble(of_groups, shardings.scales, mins, scale_dtype) if layout.has_mins else None,
        order=None if order is None else put(order, placement.replicated),
        zero=_zero(layout),
        is_e2m1=layout.format == "float4",
        placement=placement,
        divided=(*shardings.data.spec, None, None)[:2],
    )
    jax.block_until_ready(array)  # else parts would wait in the host's memory for slower devices
    return array


def _empty(box: Box, shape: tuple[int, int], layout: Layout) -> QuantizedLinear:
    of_groups, scale_dtype = group_box(box, shape, layout).shape, array_scale_dtype(layout)
    return QuantizedLinear(
        data=np.empty(box.shape, np.int8 if layout.format == "int8" else np.uint8),
        scales=np.empty(of_groups, scale_dtype),
        mins=np.empty(of_groups, scale_dtype) if layout.has_mins else None,
        zero=_zero(layout),
    )


def array_scale_dtype(layout: Layout) -> np.dtype:
    """The dtype of scales as arrays. The powers of two of float4 are exact in bfloat16."""
    assert layout.scale_dtype is not None
    is_power = layout.scale_dtype == np.uint8
    return np.dtype(ml_dtypes.bfloat16) if is_power else layout.scale_dtype


def _as_floats(scales: np.ndarray) -> np.ndarray:
    if scales.dtype != np.uint8:
        return scales
    exponents = np.maximum(scales, 1).astype(np.uint16) - np.uint16(1)
    powers: np.ndarray = (exponents << 7).view(ml_dtypes.bfloat16)
    return powers


def _has_words(layout: Layout) -> bool:
    return layout.format in ("int4", "float4")


def _zero(layout: Layout) -> int:
    return layout.zero - _MIDDLE if layout.format == "int4" else layout.zero


def array_dtype(layout: Layout) -> np.dtype:
    """The dtype of a weight's numbers as an array."""
    found: dict[str, Any] = {"int8": np.int8, "float8": ml_dtypes.float8_e4m3fn}
    dtype: np.dtype = np.dtype(found.get(layout.format, ml_dtypes.int4))
    return dtype


def _in_dtype(part: QuantizedLinear, layout: Layout) -> QuantizedLinear:
    return QuantizedLinear(
        data=part.data.view(array_dtype(layout)),
        scales=part.scales,
        mins=part.mins,
        zero=part.zero,
        is_e2m1=layout.format == "float4",
    )


def _numbers(words: np.ndarray, layout: Layout) -> np.ndarray:
    """The bits of four-bit numbers [rows, in], each in a byte, from uint32 [rows, in/8]: integers
    are signed.
    """
    shifts = np.arange(0, 4 * WORD_VALUES, 4, dtype=np.uint32)
    middle = np.uint8(_MIDDLE if layout.format == "int4" else 0)
    numbers = (words[:, :, None] >> shifts & 15).astype(np.uint8) ^ middle
    # A byte holds four bits as int4 does: with their sign above them.
    return (numbers << 4).view(np.int8).reshape(words.shape[0], -1) >> 4
