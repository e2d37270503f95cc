"""The layout of a packed weight's rows: format, groups, scales.

Deliberately does not know files, nor the places of numbers in a tile (see pack.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flaxen.kernels.linear.packed import Format

WORD_VALUES = 8  # four-bit numbers in an uint32
_CRITICAL_STRIDE = 1024  # bytes
_CACHE_LINE = 64  # bytes


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The fields of flaxen.kernels.linear.packed.PackedLinear that are known before reading."""

    format: Format
    group: int = 0  # inputs that share a scale; 0 for floats
    zero: int = 0
    # The dtype of scales and mins; None for floats. uint8 for float4: 2^(scale - 128).
    scale_dtype: np.dtype | None = None
    has_mins: bool = False


_BITS: Mapping[Format, int] = {
    "float32": 32, "bfloat16": 16, "int8": 8, "int4": 4, "float8": 8, "float4": 4,
}  # fmt: skip


def num_bytes(layout: Layout, num_values: int) -> int:
    """The bytes of so many values of a weight in a layout, with their scales, without padding."""
    in_groups = 0
    if layout.scale_dtype is not None:
        in_groups = num_values // layout.group * layout.scale_dtype.itemsize * (1 + layout.has_mins)
    return num_values * _BITS[layout.format] // 8 + in_groups


class WeightRows(NamedTuple):
    """Consecutive rows [out, in] of a weight, in a layout."""

    # [rows, in]: float8 is uint8; int4 and float4 are uint32 [rows, in/8]
    data: np.ndarray
    scales: np.ndarray | None = None  # [rows, in/group]
    mins: np.ndarray | None = None  # the same shape

    def in_order(self, order: np.ndarray | None) -> WeightRows:
        """The rows at these indices, in this order; None returns all unchanged."""
        if order is None:
            return self
        return WeightRows(
            self.data[order],
            None if self.scales is None else self.scales[order],
            None if self.mins is None else self.mins[order],
        )


def apart(rows: np.ndarray) -> np.ndarray:
    """Copies rows [rows, columns], if necessary, so that transposing them is fast.

    Rows whose distance is a power of two map to the same few cache sets and evict each other; they
    are copied with an extra cache line between them.
    """
    if rows.strides[0] % _CRITICAL_STRIDE:
        return rows
    spread = np.empty((rows.shape[0], rows.shape[1] + _CACHE_LINE // rows.itemsize), rows.dtype)
    copy: np.ndarray = spread[:, : rows.shape[1]]
    copy[...] = rows
    return copy


def words(numbers: np.ndarray) -> np.ndarray:
    """Packs eight four-bit numbers into each uint32, the first in the lowest bits.

    Args:
      numbers: uint64 of any shape, each eight bytes from 0 to 15.
    """
    pairs = (numbers | numbers >> 4) & 0x00FF00FF00FF00FF
    fours = (pairs | pairs >> 8) & 0x0000FFFF0000FFFF
    eights: np.ndarray = (fours | fours >> 16).astype(np.uint32)
    return eights
