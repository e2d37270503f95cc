"""Writes safetensors files: arrays in memory by the library, and tensors in files piece by piece.

https://huggingface.co/docs/safetensors: the header's size, the header, then the tensors.
Deliberately does not know what the tensors are for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from flaxen.weights.casting import cast_rows
from flaxen.weights.tensor import StoredTensor, row_ranges

_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_ALIGNMENT = 8  # bytes; the library pads the header to it
_PIECE = 1 << 20  # values written at once


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Writes arrays to a file, each in its own dtype. The interpreter's lock is not held meanwhile.

    Args:
      path: the file.
      arrays: the arrays by their names in the file.
      metadata: of the header.

    Raises:
      OSError: the file can't be written, on a full disk for example.
    """
    # The library wants contiguous arrays. NumPy's function gives a scalar an axis.
    contiguous = {
        name: np.ascontiguousarray(each).reshape(each.shape) for name, each in arrays.items()
    }
    try:
        save_file(contiguous, path, metadata)
    except SafetensorError as error:
        raise OSError(f"{path} can't be written: {error}") from error


def write_safetensors(
    path: Path,
    tensors: Sequence[StoredTensor],
    dtype: np.dtype,
    on_written: Callable[[int], None] = lambda num_bytes: None,
) -> None:
    """Writes tensors to a new file, in their order; of each only a piece is in memory.

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
