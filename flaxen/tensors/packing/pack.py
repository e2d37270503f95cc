"""Packs weights from files directly into the CPU kernels' layout (flaxen.kernels.linear.packed).

A file's rows are outputs: sixteen of them become a tile, by one transposition while they are in the
cache. Deliberately does not know file formats or families.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, get_args

import jax
import ml_dtypes
import numpy as np

from flaxen.kernels.backend import Backend
from flaxen.kernels.linear.packed import INPUT_MULTIPLE, TILE, PackedLinear
from flaxen.tensors.packing.layout import WORD_VALUES, Layout, WeightRows, apart
from flaxen.tensors.packing.memory import WeightMemory
from flaxen.tensors.packing.quantize import (
    float4_layout,
    float8_layout,
    int4_layout,
    int8_layout,
    quantize,
)
from flaxen.tensors.tensor import StoredTensor

# auto keeps quantized tensors as stored if that is lossless; none dequantizes them.
Quantization = Literal["auto", "none", "int8", "int4", "fp8", "mxfp4"]
QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)

# The dtypes of the filled arrays [tiles, numbers, 16]: a pair of bfloat16 or float8 moves as one
# number.
_NUMBER_DTYPES: Mapping[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(np.uint32),
    "int8": np.dtype(np.int8),
    "int4": np.dtype(np.uint32),
    "float8": np.dtype(np.uint16),
    "float4": np.dtype(np.uint32),
}
_VALUES_PER_NUMBER = {
    "float32": 1, "bfloat16": 2, "int8": 1, "int4": WORD_VALUES, "float8": 2, "float4": WORD_VALUES,
}  # fmt: skip


def choose_layout(
    stored: StoredTensor,
    dtype: np.dtype,
    quantization: Quantization,
    *,
    backend: Backend,
    is_table: bool,
) -> Layout:
    """Chooses the layout of one weight.

    Args:
      stored: the weight's tensor, [out, in].
      dtype: the dtype of weights that are not quantized, float32 or bfloat16.
      quantization: the requested quantization.
      backend: what computes with it.
      is_table: whether it is the embedding or unembedding: four bits are not enough for logits, so
          tables get at least eight.
    """
    if is_kept(stored, quantization, backend=backend):
        assert stored.quantized is not None
        layout, num_inputs = stored.quantized.layout, stored.shape[1]
        if layout.group == num_inputs and backend.packs_weights:
            return replace(layout, group=_padded(num_inputs, INPUT_MULTIPLE))
        return layout
    if quantization not in ("auto", "none"):
        return quantized_layout(quantization, stored.shape[1], backend=backend, is_table=is_table)
    return Layout(format="float32" if dtype == np.float32 else "bfloat16")


def is_kept(stored: StoredTensor, quantization: Quantization, *, backend: Backend) -> bool:
    """Whether a weight's numbers and scales are kept as the file has them."""
    return quantization == "auto" and stored.quantized is not None and backend.keeps_quantized


def quantized_layout(
    quantization: Quantization, num_inputs: int, *, backend: Backend, is_table: bool
) -> Layout:
    """The layout of a weight that is quantized as it is loaded.

    Packed weights are padded. Others keep their size, so those whose inputs are no whole groups of
    four-bit numbers get eight bits, like tables.
    """
    if backend.packs_weights:
        num_inputs = _padded(num_inputs, INPUT_MULTIPLE)
    fours = {"int4": int4_layout(), "mxfp4": float4_layout()}
    if quantization in fours and not is_table and num_inputs % fours[quantization].group == 0:
        return fours[quantization]
    if quantization == "fp8" and not is_table:
        return float8_layout(num_inputs)
    return int8_layout(num_inputs)


class Packing:
    """One weight that is being packed, from rows in any order. Thread-safe.

    Args:
      shape: (outputs, inputs).
      layout: the layout of the result.
      memory: where to allocate it.
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

    def write(self, start: int, rows: WeightRows) -> None:
        """Writes rows that already have the layout; inputs that they lack stay zeros.

        Args:
          start: the index of the first row, a multiple of 16.
          rows: the rows; their number is a multiple of 16, except at the end.
        """
        data = rows.data
        if self._layout.format == "float8":  # pairs of inputs move as one number
            data = np.ascontiguousarray(_in_pairs(data)).view(np.uint16)
        own = (data, rows.scales, rows.mins)
        for out, given in zip((self._data, self._scales, self._mins), own, strict=True):
            if out is not None and given is not None:
                _write_tiles(out, start // TILE, given)

    def write_floats(self, start: int, rows: np.ndarray) -> None:
        """Quantizes or casts rows of floats to the layout and writes them.

        Raises:
          ValueError: the rows can't be quantized.
        """
        is_bfloat16 = self._layout.format == "bfloat16"
        floats = rows.astype(ml_dtypes.bfloat16 if is_bfloat16 else np.float32, copy=False)
        if self._padded_inputs != self._num_inputs:
            floats = np.pad(floats, ((0, 0), (0, self._padded_inputs - self._num_inputs)))
        if self._layout.scale_dtype is not None:
            self.write(start, quantize(floats, self._layout))
        elif is_bfloat16:
            # They are written as integers: NumPy transposes a foreign dtype one number at a time.
            bits = np.ascontiguousarray(floats.view(np.uint16))
            self.write(start, WeightRows(bits.view(np.uint32)))
        else:
            self.write(start, WeightRows(floats))

    def finish(
        self, put: Callable[[np.ndarray], jax.Array], order: np.ndarray | None = None
    ) -> PackedLinear:
        """Returns the weight; nothing may be written afterwards.

        Args:
          put: moves an array to the device, without a copy if possible.
          order: of the inputs, as PackedLinear has it.
        """
        data = self._data
        if self._layout.format in ("bfloat16", "float8"):
            is_float8 = self._layout.format == "float8"
            half = np.dtype(np.uint8 if is_float8 else ml_dtypes.bfloat16)
            data = data.view(half).reshape(*data.shape, 2)
        return PackedLinear(
            data=put(data),
            scales=None if self._scales is None else put(self._scales),
            mins=None if self._mins is None else put(self._mins),
            order=None if order is None else put(order),
            format=self._layout.format,
            num_inputs=self._num_inputs,
            num_outputs=self._num_outputs,
            group=self._layout.group,
            zero=self._layout.zero,
        )


def _write_tiles(out: np.ndarray, first_tile: int, rows: np.ndarray) -> None:
    rows = np.pad(rows, ((0, -rows.shape[0] % TILE), (0, 0))) if rows.shape[0] % TILE else rows
    tiles = apart(rows).reshape(-1, TILE, rows.shape[1]).swapaxes(1, 2)
    out[first_tile : first_tile + tiles.shape[0], : tiles.shape[1]] = tiles


def _in_pairs(rows: np.ndarray) -> np.ndarray:
    return np.pad(rows, ((0, 0), (0, 1))) if rows.shape[1] % 2 else rows


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
