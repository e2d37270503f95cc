"""Dequantizes rows of GGUF blocks.

The common types are decoded here, as planes: byte j of all blocks is contiguous, so each NumPy call
runs over long rows (over twice as fast as the gguf package, and bit-equal to it). The gguf package
decodes the other types. Deliberately does not know files or models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import ml_dtypes
import numpy as np


class BlockType(NamedTuple):
    """A tensor type: rows consist of blocks of `values` numbers in `bytes` bytes."""

    name: str  # ggml's spelling
    values: int
    bytes: int


BLOCK_TYPES: Mapping[int, BlockType] = {  # keyed by ggml's type number
    0: BlockType("F32", 1, 4),
    1: BlockType("F16", 1, 2),
    30: BlockType("BF16", 1, 2),
    2: BlockType("Q4_0", 32, 18),
    3: BlockType("Q4_1", 32, 20),
    6: BlockType("Q5_0", 32, 22),
    7: BlockType("Q5_1", 32, 24),
    8: BlockType("Q8_0", 32, 34),
    10: BlockType("Q2_K", 256, 84),
    11: BlockType("Q3_K", 256, 110),
    12: BlockType("Q4_K", 256, 144),
    13: BlockType("Q5_K", 256, 176),
    14: BlockType("Q6_K", 256, 210),
    15: BlockType("Q8_K", 256, 292),
    16: BlockType("IQ2_XXS", 256, 66),
    17: BlockType("IQ2_XS", 256, 74),
    18: BlockType("IQ3_XXS", 256, 98),
    19: BlockType("IQ1_S", 256, 50),
    20: BlockType("IQ4_NL", 32, 18),
    21: BlockType("IQ3_S", 256, 110),
    22: BlockType("IQ2_S", 256, 82),
    23: BlockType("IQ4_XS", 256, 136),
    29: BlockType("IQ1_M", 256, 56),
    34: BlockType("TQ1_0", 256, 54),
    35: BlockType("TQ2_0", 256, 66),
    39: BlockType("MXFP4", 32, 17),
    40: BlockType("NVFP4", 64, 36),
}
# The value of each 4-bit number of an IQ4_NL block, before scaling.
IQ4_NL_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8
)


def block_type(kind: int) -> BlockType:
    """The block type of a ggml type number.

    Raises:
      ValueError: the type is not supported; the message names it and the supported ones.
    """
    if kind in _FLOATS or kind in _PLANES:
        return BLOCK_TYPES[kind]
    # Imported here, because it takes a quarter of a second and most files do not need it.
    from gguf import GGMLQuantizationType

    known = {int(each): each.name for each in GGMLQuantizationType}
    if kind in BLOCK_TYPES:
        if kind in known:
            return BLOCK_TYPES[kind]
        raise ValueError(
            f"type {BLOCK_TYPES[kind].name}, which the installed gguf package is too old for: "
            "update it with `pip install -U gguf`"
        )
    raise ValueError(
        f"type {known.get(kind, f'number {kind}')}, which is not supported. Supported are "
        f"{', '.join(t.name for t in BLOCK_TYPES.values())}: quantize the model to one of them"
    )


def read_rows(kind: int, data: np.ndarray) -> np.ndarray:
    """Dequantizes rows.

    Args:
      kind: a key of BLOCK_TYPES.
      data: uint8 [rows, bytes of a row].

    Returns:
      [rows, values of a row]: float32, or the stored dtype for F16 and BF16. It may be a view with
      the rows as the innermost axis.
    """
    if kind in _FLOATS:
        return data.view(_FLOATS[kind])
    with np.errstate(all="ignore"):  # a block's scale may be infinite; that is the file's problem
        if kind in _PLANES:
            num_bytes = BLOCK_TYPES[kind].bytes
            blocks = data.reshape(data.shape[0], -1, num_bytes)
            planes = np.ascontiguousarray(blocks.transpose(1, 2, 0))
            return _PLANES[kind](planes).reshape(-1, data.shape[0]).T
        return _from_library(kind, data)


def _from_library(kind: int, data: np.ndarray) -> np.ndarray:
    from gguf import GGMLQuantizationType, dequantize

    # All blocks are one wide row: the package processes groups of rows, and small groups are slow.
    flat = dequantize(data.reshape(1, -1), GGMLQuantizationType(kind))
    return flat.reshape(data.shape[0], -1)


def _halves(planes: np.ndarray, at: int) -> np.ndarray:
    """The float16 at a byte of every block, as float32 [blocks, 1, rows]."""
    low, high = planes[:, at].astype(np.uint16), planes[:, at + 1].astype(np.uint16)
    return (low | (high << 8)).view(np.float16).astype(np.float32)[:, None]


def _nibbles(planes: np.ndarray, at: int) -> np.ndarray:
    """The 32 four-bit numbers from a byte on: the low halves of 16 bytes, then the high ones."""
    packed = planes[:, at : at + 16]
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def _q4_0(planes: np.ndarray) -> np.ndarray:
    values: np.ndarray = (_nibbles(planes, 2).view(np.int8) - np.int8(8)) * _halves(planes, 0)
    return values


def _q4_1(planes: np.ndarray) -> np.ndarray:
    values: np.ndarray = _nibbles(planes, 4) * _halves(planes, 0)
    values += _halves(planes, 2)
    return values


def _q5_0(planes: np.ndarray) -> np.ndarray:
    numbers = (_nibbles(planes, 6) | _fifth_bits(planes, 2)).view(np.int8) - np.int8(16)
    values: np.ndarray = numbers * _halves(planes, 0)
    return values


def _q5_1(planes: np.ndarray) -> np.ndarray:
    values: np.ndarray = (_nibbles(planes, 8) | _fifth_bits(planes, 4)) * _halves(planes, 0)
    values += _halves(planes, 2)
    return values


def _fifth_bits(planes: np.ndarray, at: int) -> np.ndarray:
    """The 32 bits from a byte on, lowest first, each shifted to be the fifth bit of a number."""
    octets = planes[:, at : at + 4]
    bits = octets[:, :, None] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return (bits << 4).reshape(planes.shape[0], 32, -1)


def _q8_0(planes: np.ndarray) -> np.ndarray:
    values: np.ndarray = planes[:, 2:].view(np.int8) * _halves(planes, 0)
    return values


def _q8_k(planes: np.ndarray) -> np.ndarray:
    """A float32 scale and 256 numbers; the sums after them only help ggml's products."""
    scales = np.ascontiguousarray(planes[:, :4].swapaxes(1, 2)).view(np.float32).swapaxes(1, 2)
    values: np.ndarray = planes[:, 4:260].view(np.int8) * scales
    return values


def _iq4_nl(planes: np.ndarray) -> np.ndarray:
    values: np.ndarray = IQ4_NL_VALUES[_nibbles(planes, 2)] * _halves(planes, 0)
    return values


_FLOATS: Mapping[int, np.dtype] = {
    0: np.dtype(np.float32),
    1: np.dtype(np.float16),
    30: np.dtype(ml_dtypes.bfloat16),
}
_PLANES: Mapping[int, Callable[[np.ndarray], np.ndarray]] = {
    2: _q4_0, 3: _q4_1, 6: _q5_0, 7: _q5_1, 8: _q8_0, 15: _q8_k, 20: _iq4_nl,
}  # fmt: skip
