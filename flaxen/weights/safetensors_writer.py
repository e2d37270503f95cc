"""Writes safetensors files piece by piece: the library writes only what is in memory as a whole.

https://huggingface.co/docs/safetensors: the header's size, the header, then the tensors.
Deliberately does not know what the tensors are for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxen.weights.casting import cast_rows
from flaxen.weights.tensor import StoredTensor, row_ranges

_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_ALIGNMENT = 8  # bytes; the library pads the header to it
_PIECE = 1 << 20  # values written at once


def write_safetensors(
    path: Path,
    tensors: Sequence[StoredTensor],
    dtype: np.dtype,
    on_written: Callable[[int], None] = lambda num_bytes: None,
) -> None:
    """Writes tensors to a new file, in their order.

    Args:
      path: the file.
      tensors: their names are those in the file.
      dtype: of all tensors in the file: float32, float16 or bfloat16.
      on_written: called with the number of bytes after each piece.

    Raises:
      ValueError: a value is too large for the dtype.
      OSError: the file can't be written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    end = 0
    for tensor in tensors:
        start, end = end, end + math.prod(tensor.shape) * dtype.itemsize
        header[tensor.name] = {
            "dtype": _NAMES[dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            for first, last in row_ranges(tensor, _PIECE):
                rows = np.ascontiguousarray(cast_rows(tensor.name, tensor.read(first, last), dtype))
                file.write(rows.view(np.uint8).data)
                on_written(rows.nbytes)
