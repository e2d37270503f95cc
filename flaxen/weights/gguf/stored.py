"""Extracts the numbers and scales of GGUF blocks without loss: nothing is dequantized.

Layouts: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
Five-bit numbers are stored in eight bits. Types with scales for fewer than 32 values (Q2_K, Q3_K,
Q6_K and most IQ types) are not supported here. Deliberately does not know
files or models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from flaxen.tensors.packing.layout import WORD_VALUES, Layout, WeightRows, words
from flaxen.weights.gguf.blocks import BLOCK_TYPES, IQ4_NL_VALUES

_GROUP = 32
_HALF, _FLOAT = np.dtype(np.float16), np.dtype(np.float32)

LAYOUTS: Mapping[int, Layout] = {  # keyed by ggml's type number
    2: Layout(format="int4", group=_GROUP, zero=8, scale_dtype=_HALF),  # Q4_0
    3: Layout(format="int4", group=_GROUP, scale_dtype=_HALF, has_mins=True),  # Q4_1
    6: Layout(format="int8", group=_GROUP, scale_dtype=_HALF),  # Q5_0
    8: Layout(format="int8", group=_GROUP, scale_dtype=_HALF),  # Q8_0
    20: Layout(format="int8", group=_GROUP, scale_dtype=_HALF),  # IQ4_NL: its table has integers
    7: Layout(format="int8", group=_GROUP, scale_dtype=_HALF, has_mins=True),  # Q5_1
    # Q4_K and Q5_K: a scale is a float16 times six bits, which float32 represents exactly.
    12: Layout(format="int4", group=_GROUP, scale_dtype=_FLOAT, has_mins=True),
    13: Layout(format="int8", group=_GROUP, scale_dtype=_FLOAT, has_mins=True),
    15: Layout(format="int8", group=256, scale_dtype=_FLOAT),  # Q8_K
    39: Layout(format="float4", group=_GROUP, scale_dtype=np.dtype(np.uint8)),  # MXFP4
}


def read_stored(kind: int, data: np.ndarray) -> WeightRows:
    """Reads rows of blocks in the layout of LAYOUTS.

    Args:
      kind: a key of LAYOUTS.
      data: uint8 [rows, bytes of a row].
    """
    return _READERS[kind](data.reshape(data.shape[0], -1, BLOCK_TYPES[kind].bytes))


def _q4_0(blocks: np.ndarray) -> WeightRows:
    return WeightRows(_words(blocks[:, :, 2:]), _halves(blocks, 0))


def _q4_1(blocks: np.ndarray) -> WeightRows:
    return WeightRows(_words(blocks[:, :, 4:]), _halves(blocks, 0), _halves(blocks, 2))


def _q5_0(blocks: np.ndarray) -> WeightRows:
    fifth = np.unpackbits(blocks[:, :, 2:6], axis=2, bitorder="little") << 4
    numbers = (_nibbles(blocks[:, :, 6:]) | fifth).view(np.int8) - np.int8(16)
    return WeightRows(numbers.reshape(blocks.shape[0], -1), _halves(blocks, 0))


def _iq4_nl(blocks: np.ndarray) -> WeightRows:
    numbers = IQ4_NL_VALUES[_nibbles(blocks[:, :, 2:])]
    return WeightRows(numbers.reshape(blocks.shape[0], -1), _halves(blocks, 0))


def _q8_0(blocks: np.ndarray) -> WeightRows:
    numbers = np.ascontiguousarray(blocks[:, :, 2:]).view(np.int8)
    return WeightRows(numbers.reshape(blocks.shape[0], -1), _halves(blocks, 0))


def _q5_1(blocks: np.ndarray) -> WeightRows:
    fifth = np.unpackbits(blocks[:, :, 4:8], axis=2, bitorder="little") << 4
    numbers = (_nibbles(blocks[:, :, 8:]) | fifth).view(np.int8)
    return WeightRows(numbers.reshape(blocks.shape[0], -1), _halves(blocks, 0), _halves(blocks, 2))


def _q8_k(blocks: np.ndarray) -> WeightRows:
    numbers = np.ascontiguousarray(blocks[:, :, 4:260]).view(np.int8)
    scales = np.ascontiguousarray(blocks[:, :, :4]).view(np.float32)[:, :, 0]
    return WeightRows(numbers.reshape(blocks.shape[0], -1), scales)


def _mxfp4(blocks: np.ndarray) -> WeightRows:
    return WeightRows(_words(blocks[:, :, 1:]), np.ascontiguousarray(blocks[:, :, 0]))


def _q4_k(blocks: np.ndarray) -> WeightRows:
    return WeightRows(_words(blocks[:, :, 16:]), *_scales_of_k(blocks))


def _q5_k(blocks: np.ndarray) -> WeightRows:
    """Four bits of each number lie as in Q4_K, and the fifth in one of 32 bytes: a bit for each
    group.
    """
    packed = blocks[:, :, 48:].reshape(*blocks.shape[:2], 4, 1, 32)
    fours = np.concatenate([packed & 15, packed >> 4], axis=3).reshape(*blocks.shape[:2], 8, 32)
    shifts = np.arange(8, dtype=np.uint8)[:, None]
    fifth = (blocks[:, :, None, 16:48] >> shifts & 1) << 4
    numbers = (fours | fifth).view(np.int8).reshape(blocks.shape[0], -1)
    return WeightRows(numbers, *_scales_of_k(blocks))


def _scales_of_k(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scales and minima of eight groups a block: six bits each, of which twelve bytes hold
    three parts.
    """
    low, middle, high = blocks[:, :, 4:8], blocks[:, :, 8:12], blocks[:, :, 12:16]
    scales = np.concatenate([low & 63, high & 15 | low >> 6 << 4], axis=2)
    mins = np.concatenate([middle & 63, high >> 4 | middle >> 6 << 4], axis=2)
    num_rows = blocks.shape[0]
    with np.errstate(all="ignore"):  # a block's scale may be infinite; that is the file's problem
        scale, least = (_halves(blocks, at)[:, :, None].astype(np.float32) for at in (0, 2))
        return (
            (scale * scales).reshape(num_rows, -1),
            (least * -mins.astype(np.float32)).reshape(num_rows, -1),
        )


def _halves(blocks: np.ndarray, at: int) -> np.ndarray:
    """The float16 at a byte of every block: [rows, blocks]."""
    return np.ascontiguousarray(blocks[:, :, at : at + 2]).view(np.float16)[:, :, 0]


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """The 32 four-bit numbers of each block: the low halves of 16 bytes, then their high halves."""
    return np.concatenate([packed & 15, packed >> 4], axis=2)


def _words(packed: np.ndarray) -> np.ndarray:
    """Four-bit numbers [rows, in/8], from bytes [rows, blocks, bytes].

    ggml keeps runs: the low halves of 16 bytes (Q4_K: of 32), then their high halves.
    """
    num_rows, num_blocks, num_bytes = packed.shape
    run = 2 if num_bytes == 16 else 4  # uint64s
    eights = np.ascontiguousarray(packed).view(np.uint64).reshape(-1, run)
    out = np.empty((eights.shape[0], 2, run), np.uint32)
    mask = np.uint64(0x0F0F0F0F0F0F0F0F)
    out[:, 0] = words(eights & mask)
    out[:, 1] = words(eights >> 4 & mask)
    return out.reshape(num_rows, num_blocks * num_bytes * 2 // WORD_VALUES)


_READERS: Mapping[int, Callable[[np.ndarray], WeightRows]] = {
    2: _q4_0, 3: _q4_1, 6: _q5_0, 7: _q5_1, 8: _q8_0, 12: _q4_k, 13: _q5_k, 15: _q8_k,
    20: _iq4_nl, 39: _mxfp4,
}  # fmt: skip
