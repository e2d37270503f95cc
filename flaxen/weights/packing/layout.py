"""How a weight's rows are stored once packed: in which format, in which groups, with what scales.

Deliberately does not know files, nor where in a tile a number lies (see packing.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flaxen.kernels.linear.packed import Format

WORD_VALUES = 8  # four-bit numbers in an uint32
_CRITICAL_STRIDE = 1024  # bytes
_CACHE_LINE = 64  # bytes


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The fields of flaxen.kernels.linear.packed.PackedLinear that are known before it is read."""

    format: Format
    group: int = 0  # inputs that share a scale; 0 for floats
    zero: int = 0
    scale_dtype: np.dtype | None = None  # of scales and mins; None for floats
    has_mins: bool = False


class Rows(NamedTuple):
    """Some rows [out, in] of a weight, in a layout, one after the other."""

    data: np.ndarray  # [rows, in] of the layout's dtype; int4: uint32 [rows, in/8]
    scales: np.ndarray | None = None  # [rows, in/group]
    mins: np.ndarray | None = None  # the same shape

    def in_order(self, order: np.ndarray | None) -> Rows:
        """The rows of these places, in this order; None leaves them."""
        if order is None:
            return self
        return Rows(
            self.data[order],
            None if self.scales is None else self.scales[order],
            None if self.mins is None else self.mins[order],
        )


def apart(rows: np.ndarray) -> np.ndarray:
    """The same rows [rows, columns], so that turning them around is quick.

    Rows that lie a power of two apart fall into the same few places of the processor's cache and
    drive each other out; then they are copied to lie a cache line further apart.
    """
    if rows.strides[0] % _CRITICAL_STRIDE:
        return rows
    spread = np.empty((rows.shape[0], rows.shape[1] + _CACHE_LINE // rows.itemsize), rows.dtype)
    copy: np.ndarray = spread[:, : rows.shape[1]]
    copy[...] = rows
    return copy


def words(numbers: np.ndarray) -> np.ndarray:
    """Eight four-bit numbers into each uint32, the first in the lowest bits.

    Args:
      numbers: uint64 of any shape, each eight bytes from 0 to 15.
    """
    pairs = (numbers | numbers >> 4) & 0x00FF00FF00FF00FF
    fours = (pairs | pairs >> 8) & 0x0000FFFF0000FFFF
    eights: np.ndarray = (fours | fours >> 16).astype(np.uint32)
    return eights
