"""Writes safetensors files: arrays in memory by the library or one after the other,
and tensors in files piece by piece.

https://huggingface.co/docs/safetensors: the header's size, the header, then the tensors.
Deliberately does not know what the tensors are for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from flaxen.tensors.tensor import StoredTensor, row_ranges
from flaxen.weights.casting import cast_rows
from flaxen.weights.safetensors import ALL_DTYPES

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


class Leaf(NamedTuple):
    """An array that is brought to the host when its turn comes."""

    name: str  # in the file
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


def write_in_turn(path: Path, leaves: Sequence[Leaf], metadata: dict[str, str]) -> None:
    """Writes arrays to a new file, of which one at a time is in the host's memory.

    Args:
      path: the file.
      leaves: the arrays.
      metadata: of the header.

    Raises:
      ValueError: a dtype that files can't have.
      OSError: the file can't be written, on a full disk for example.
    """
    names = {dtype: name for name, dtype in ALL_DTYPES.items()}
    for leaf in leaves:
        if leaf.dtype not in names:
            raise ValueError(
                f"{leaf.name} has the dtype {leaf.dtype}, which a safetensors file can't have: "
                f"convert it to one of {', '.join(map(str, names))}"
            )
    # The widest numbers first, so that each array begins at a multiple of its own.
    leaves = sorted(leaves, key=lambda leaf: (-leaf.dtype.itemsize, leaf.name))
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for leaf in leaves:
        start, end = end, end + math.prod(leaf.shape) * leaf.dtype.itemsize
        header[leaf.name] = {
            "dtype": names[leaf.dtype],
            "shape": list(leaf.shape),
            "data_offsets": [start, end],
        }
    try:
        with path.open("xb") as file:
            file.write(_header(header))
            for leaf in leaves:
                file.write(np.ascontiguousarray(leaf.read()).reshape(-1).view(np.uint8).data)
    except OSError as error:
        raise OSError(f"{path} can't be written: {error}") from error


def _header(fields: dict[str, Any]) -> bytes:
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


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
    with path.open("xb") as file:
        file.write(_header(header))
        for tensor in tensors:
            for first, last in row_ranges(tensor, _PIECE):
                rows = np.ascontiguousarray(cast_rows(tensor.name, tensor.read(first, last), dtype))
                file.write(rows.view(np.uint8).data)
                on_written(rows.nbytes)
