"""The number formats in which tensors are written to GGUF files, by llama.cpp's names.

The gguf package quantizes; it has no K-quants, which llama.cpp's `llama-quantize` makes of a file.
Deliberately does not know files, metadata or models.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from flaxen.weights.casting import cast_rows
from flaxen.weights.gguf.blocks import BLOCK_TYPES

OUT_TYPES: Mapping[str, int] = {  # `--outtype` -> ggml's type number
    "f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q5_1": 7, "q5_0": 6, "q4_1": 3, "q4_0": 2,
}  # fmt: skip
AUTO = "auto"
_F32, _F16, _Q8_0 = OUT_TYPES["f32"], OUT_TYPES["f16"], OUT_TYPES["q8_0"]
_FLOATS: Mapping[int, np.dtype] = {
    _F32: np.dtype(np.float32),
    _F16: np.dtype(np.float16),
    OUT_TYPES["bf16"]: np.dtype(ml_dtypes.bfloat16),
}
_LARGEST = 65504.0  # a block's scale is a float16, and so may not be larger


def check_out_type(name: str) -> None:
    """Refuses an unknown type.

    Raises:
      ValueError: it is not auto, nor in OUT_TYPES; the message says what to do for K-quants.
    """
    if name == AUTO or name in OUT_TYPES:
        return
    advice = ""
    if "_k" in name.lower() or name.lower().startswith("iq"):
        advice = (
            ". llama.cpp's llama-quantize makes the K-quants and IQ types: export with f16 or "
            "bf16, and give it that file"
        )
    raise ValueError(
        f"the type {name!r} can't be written: use {AUTO}, {', '.join(OUT_TYPES)}{advice}"
    )


def tensor_kind(kind: int, shape: tuple[int, ...], *, is_table: bool) -> int:
    """The type of one tensor where `kind` is that of the file, as llama.cpp's converter has it.

    Norms and biases are always f32. Embedding and unembedding have at least eight bits, because
    four are not enough for the logits. Rows that are no whole number of blocks are f16.
    """
    if len(shape) == 1:
        return _F32
    if is_table and kind not in _FLOATS:
        kind = _Q8_0
    return kind if shape[-1] % BLOCK_TYPES[kind].values == 0 else _F16


def row_bytes(kind: int, shape: tuple[int, ...]) -> int:
    """The bytes of a row of a tensor, which is everything behind the first axis."""
    num_values = int(np.prod(shape[1:], dtype=np.int64))
    return num_values // BLOCK_TYPES[kind].values * BLOCK_TYPES[kind].bytes


def encode_rows(name: str, rows: np.ndarray, kind: int) -> np.ndarray:
    """Rows of numbers as the bytes of a type.

    Args:
      name: the tensor's name, for errors.
      rows: floats [rows, ...].
      kind: one of OUT_TYPES's values.

    Returns:
      uint8 [rows, bytes of a row].

    Raises:
      ValueError: a value is too large for the type, or can't be quantized.
    """
    flat = rows.reshape(rows.shape[0], -1)
    if kind in _FLOATS:
        return np.ascontiguousarray(cast_rows(name, flat, _FLOATS[kind])).view(np.uint8)
    # Imported here, because it takes a quarter of a second.
    from gguf import GGMLQuantizationType, quants

    values = np.ascontiguousarray(flat, np.float32)
    if not (np.abs(values) <= _LARGEST).all():  # also for NaN
        raise ValueError(
            f"tensor {name} has values that are not finite or above {_LARGEST:g}, which "
            f"{BLOCK_TYPES[kind].name} can't hold: export with bf16 or f32"
        )
    found: np.ndarray = quants.quantize(values, GGMLQuantizationType(kind))
    return found
