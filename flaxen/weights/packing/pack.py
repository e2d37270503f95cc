"""Weights from files straight into the layout of the CPU kernels (flaxen.kernels.linear.packed).

Rows of a file are outputs: sixteen of them become a tile, by one transposition while they are in
the processor's cache. Deliberately does not know file formats or families.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import jax
import ml_dtypes
import numpy as np

from flaxen.kernels.linear.packed import INPUT_MULTIPLE, TILE, PackedLinear
from flaxen.weights.packing.layout import WORD_VALUES, Layout, Rows, apart
from flaxen.weights.packing.memory import WeightMemory
from flaxen.weights.packing.quantize import int4_layout, int8_layout, quantize
from flaxen.weights.tensor import StoredTensor

# auto keeps quantized tensors as they are stored where that loses nothing; none dequantizes them.
Quantization = Literal["auto", "none", "int8", "int4"]
QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)

# Of the arrays that are filled, [tiles, numbers, 16]: pairs of bfloat16 move as one.
_NUMBER_DTYPES: Mapping[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(np.uint32),
    "int8": np.dtype(np.int8),
    "int4": np.dtype(np.uint32),
}
_VALUES_PER_NUMBER = {"float32": 1, "bfloat16": 2, "int8": 1, "int4": WORD_VALUES}


def choose_layout(
    stored: StoredTensor, dtype: np.dtype, quantization: Quantization, *, is_table: bool
) -> Layout:
    """The layout of one weight.

    Args:
      stored: its tensor, [out, in].
      dtype: of weights that are not quantized, float32 or bfloat16.
      quantization: what was asked for.
      is_table: it is the embedding or the unembedding: four bits are too few for the scores of
        words, so these have eight at least.
    """
    if quantization == "auto" and stored.quantized is not None:
        return stored.quantized.layout
    if quantization == "int8" or (quantization == "int4" and is_table):
        return int8_layout(_padded(stored.shape[1], INPUT_MULTIPLE))
    if quantization == "int4":
        return int4_layout()
    return Layout(format="float32" if dtype == np.float32 else "bfloat16")


class Packing:
    """One weight that is being packed, from rows in any order, by any threads.

    Args:
      shape: (outputs, inputs).
      layout: of the result.
      memory: where it lies.
    """

    def __init__(self, shape: tuple[int, int], layout: Layout, memory: WeightMemory) -> None:
        self._layout = layout
        self._num_outputs, self._num_inputs = shape
        self._padded_inputs = _padded(self._num_inputs, INPUT_MULTIPLE)
        num_tiles = -(-self._num_outputs // TILE)
        numbers = self._padded_inputs // _VALUES_PER_NUMBER[layout.format]
        self._data = memory.zeros((num_tiles, numbers, TILE), _NUMBER_DTYPES[layout.format])
        self._scales = self._mins = None
        if layout.scale_dtype is not None:
            per_group = (num_tiles, self._padded_inputs // layout.group, TILE)
            self._scales = memory.zeros(per_group, layout.scale_dtype)
            if layout.has_mins:
                self._mins = memory.zeros(per_group, layout.scale_dtype)

    def write(self, start: int, rows: Rows) -> None:
        """Puts rows that have the layout in their place.

        Args:
          start: the first row, a multiple of 16.
          rows: as many as there are up to a multiple of 16, or up to the last.
        """
        for out, given in zip((self._data, self._scales, self._mins), rows, strict=True):
            if out is not None and given is not None:
                _write_tiles(out, start // TILE, given)

    def write_floats(self, start: int, rows: np.ndarray) -> None:
        """Puts rows of floats in their place, in the layout.

        Raises:
          ValueError: they can't be quantized.
        """
        is_bfloat16 = self._layout.format == "bfloat16"
        floats = rows.astype(ml_dtypes.bfloat16 if is_bfloat16 else np.float32, copy=False)
        if self._padded_inputs != self._num_inputs:
            floats = np.pad(floats, ((0, 0), (0, self._padded_inputs - self._num_inputs)))
        if self._layout.scale_dtype is not None:
            self.write(start, quantize(floats, self._layout))
        elif is_bfloat16:
            # As integers: NumPy turns arrays of a foreign dtype around one number at a time.
            bits = np.ascontiguousarray(floats.view(np.uint16))
            self.write(start, Rows(bits.view(np.uint32)))
        else:
            self.write(start, Rows(floats))

    def finish(self, put: Callable[[np.ndarray], jax.Array]) -> PackedLinear:
        """The weight; nothing may be written any more.

        Args:
          put: makes a device's array of ours, without a copy if it can.
        """
        data = self._data
        if self._layout.format == "bfloat16":
            data = data.view(ml_dtypes.bfloat16).reshape(*data.shape, 2)
        return PackedLinear(
            data=put(data),
            scales=None if self._scales is None else put(self._scales),
            mins=None if self._mins is None else put(self._mins),
            format=self._layout.format,
            num_inputs=self._num_inputs,
            num_outputs=self._num_outputs,
            group=self._layout.group,
            zero=self._layout.zero,
        )


def _write_tiles(out: np.ndarray, first_tile: int, rows: np.ndarray) -> None:
    rows = np.pad(rows, ((0, -rows.shape[0] % TILE), (0, 0))) if rows.shape[0] % TILE else rows
    tiles = apart(rows).reshape(-1, TILE, rows.shape[1]).swapaxes(1, 2)
    out[first_tile : first_tile + tiles.shape[0]] = tiles


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
