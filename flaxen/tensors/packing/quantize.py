"""Quantizes float rows to eight- or four-bit numbers by rounding to nearest.

Deliberately does not know files, nor which weights to quantize.
"""

from __future__ import annotations

import numpy as np

from flaxen.tensors.packing.layout import Layout, WeightRows, apart, words

_GROUP = 32  # inputs that share an int4 scale and min


def int8_layout(num_inputs: int) -> Layout:
    """One float32 scale for each output: four bytes in a row cost nothing, and float16 would lose
    precision for tiny weights.
    """
    return Layout(format="int8", group=num_inputs, scale_dtype=np.dtype(np.float32))


def int4_layout() -> Layout:
    """A float16 scale and min for each 32 inputs: five bits per weight in total."""
    return Layout(format="int4", group=_GROUP, scale_dtype=np.dtype(np.float16), has_mins=True)


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
        found = _int8(rows) if layout.format == "int8" else _int4(rows)
    for each in (found.scales, found.mins):
        if each is not None and not np.isfinite(each).all():
            raise ValueError(
                f"its values reach from {rows.min():g} to {rows.max():g}, which {layout.format} "
                f"with {layout.scale_dtype} scales can't hold: load it with quantization none"
            )
    return found


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
