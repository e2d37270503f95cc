"""Quantizes float rows to integers or floats of eight or four bits, by rounding to nearest.

Deliberately does not know files, nor which weights to quantize.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np

from flaxen.tensors.packing.layout import Layout, WeightRows, apart, words

_GROUP = 32  # inputs that share a scale of four-bit numbers
_LARGEST_FLOAT8 = 448
_E2M1_BOUNDS = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5], np.float32)  # between numbers


def int8_layout(num_inputs: int) -> Layout:
    """One float32 scale for each output: four bytes in a row cost nothing, and float16 would lose
    precision for tiny weights.
    """
    return Layout(format="int8", group=num_inputs, scale_dtype=np.dtype(np.float32))


def int4_layout() -> Layout:
    """A float16 scale and min for each 32 inputs: five bits per weight in total."""
    return Layout(format="int4", group=_GROUP, scale_dtype=np.dtype(np.float16), has_mins=True)


def float8_layout(num_inputs: int) -> Layout:
    """One float32 scale for each output, as int8 has."""
    return Layout(format="float8", group=num_inputs, scale_dtype=np.dtype(np.float32))


def float4_layout() -> Layout:
    """MXFP4: a power of two for each 32 inputs, of eight bits: 4.25 bits per weight in total."""
    return Layout(format="float4", group=_GROUP, scale_dtype=np.dtype(np.uint8))


def quantize(rows: np.ndarray, layout: Layout) -> WeightRows:
    """Quantizes rows to a layout of this module.

    Args:
      rows: float32 [rows, in]; `in` is a multiple of the layout's group.

    Raises:
      ValueError: a value is not finite, or too large for float16 scales.
    """
    # Outputs innermost, so that each operation runs over long contiguous rows.
    rows = np.asfortranarray(apart(rows))
    with np.errstate(all="ignore"):  # values that are not finite are refused below
        found = _QUANTIZERS[layout.format](rows)
    for each in (found.scales, found.mins):
        if each is not None and not np.isfinite(each).all():
            raise ValueError(
                f"its values reach from {rows.min():g} to {rows.max():g}, which {layout.format} "
                f"with {layout.scale_dtype} scales can't hold: load it with quantization none"
            )
    return found


def float8_bits(values: np.ndarray) -> np.ndarray:
    """The bits of values of at most 448 as eight-bit floats (e4m3): uint8."""
    return values.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)


def _float8(rows: np.ndarray) -> WeightRows:
    scales = np.maximum(rows.max(axis=1), -rows.min(axis=1)) / np.float32(_LARGEST_FLOAT8)
    numbers = rows / np.where(scales == 0, np.float32(1), scales)[:, None]
    return WeightRows(np.ascontiguousarray(float8_bits(numbers)), scales[:, None])


def _float4(rows: np.ndarray) -> WeightRows:
    """The scales of MX's specification: the power of two of the largest value, less that of 6."""
    groups = rows.reshape(rows.shape[0], -1, _GROUP)
    largest = np.abs(groups).max(axis=2)
    if not np.isfinite(largest).all():
        return WeightRows(rows, np.full(largest.shape, np.nan, np.float32))  # refused by `quantize`
    _, exponents = np.frexp(largest)  # largest = m * 2^exponent, with m from 1/2 on and below 1
    exponents = np.clip(exponents - 1 - 2, -126, 127)
    numbers = np.abs(np.ldexp(groups, -exponents[:, :, None]))
    codes = np.searchsorted(_E2M1_BOUNDS, numbers, side="right").astype(np.uint8)
    # Half-way cases go to the even number, as everywhere: the odd codes' upper bounds are theirs.
    codes -= (np.isin(numbers, _E2M1_BOUNDS) & (codes % 2 == 1)).astype(np.uint8)
    codes |= (np.signbit(groups)).astype(np.uint8) << 3
    nibbles = np.ascontiguousarray(codes.reshape(rows.shape))
    return WeightRows(words(nibbles.view(np.uint64)), (exponents + 127).astype(np.uint8))


def _int8(rows: np.ndarray) -> WeightRows:
    scales = np.maximum(rows.max(axis=1), -rows.min(axis=1)) / np.float32(127)
    numbers = rows / np.where(scales == 0, np.float32(1), scales)[:, None]
    return WeightRows(np.rint(numbers, out=numbers).astype(np.int8), scales[:, None])


def _int4(rows: np.ndarray) -> WeightRows:
    groups = rows.reshape(rows.shape[0], -1, _GROUP)
    lows = groups.min(axis=2)
    scales = ((groups.max(axis=2) - lows) / np.float32(15)).astype(np.float16)
    mins = lows.astype(np.float16)
    # Rounded with the scale and min as stored, not with their values before rounding.
    steps = scales.astype(np.float32)
    steps[steps == 0] = 1
    numbers = groups - mins.astype(np.float32)[:, :, None]
    numbers /= steps[:, :, None]
    np.rint(numbers, out=numbers)
    np.clip(numbers, 0, 15, out=numbers)
    nibbles = np.ascontiguousarray(numbers.astype(np.uint8).reshape(rows.shape))
    return WeightRows(words(nibbles.view(np.uint64)), scales, mins)


_QUANTIZERS: Mapping[str, Callable[[np.ndarray], WeightRows]] = {
    "int8": _int8, "int4": _int4, "float8": _float8, "float4": _float4,
}  # fmt: skip
