"""Reads the tensors of safetensors files, of which a checkpoint may have several.

Nothing else of a directory is opened: no pickle (.bin, .pt), no Python file. Deliberately does not
know what the tensors are for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from flaxen.hub.weight_files import INDEX, find_weights
from flaxen.tensors.tensor import StoredTensor, read_byte_columns, read_bytes

_DTYPES: Mapping[str, np.dtype] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


# All dtypes of the format, also of arrays that are no weights.
ALL_DTYPES: Mapping[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "C64": np.dtype(np.complex64),
    **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
}


def read_tensors(
    directory: Path,
    dtypes: Mapping[str, np.dtype] = _DTYPES,
    *,
    left_out: tuple[str, ...] = (),
) -> dict[str, StoredTensor]:
    """Opens all weight files; tensor data stays on disk until it is read.

    Args:
      directory: as in find_weights.
      dtypes: the supported dtypes, by safetensors' names.
      left_out: the ends of names of tensors that are left out, whatever their dtype.

    Raises:
      ValueError: as in find_weights; or a file is damaged, lacks a tensor of the index, or a dtype
          is not supported.
    """
    names, shard_of = find_weights(directory)
    if shard_of is None:
        return file_tensors(directory / names[0], dtypes, left_out=left_out)
    tensors: dict[str, StoredTensor] = {}
    for shard in names:  # tensors that the index does not list belong to the model too
        held = file_tensors(directory / shard, dtypes, left_out=left_out)
        tensors |= {name: held[name] for name in held if shard_of.get(name, shard) == shard}
    for name, shard in shard_of.items():
        if name not in tensors and not name.endswith(left_out):
            raise ValueError(
                f"{directory / INDEX}: tensor {name} is not in {shard}: download both again"
            )
    return tensors


def file_tensors(
    path: Path,
    dtypes: Mapping[str, np.dtype] = _DTYPES,
    *,
    left_out: tuple[str, ...] = (),
) -> dict[str, StoredTensor]:
    """Opens one safetensors file; tensor data stays on disk until it is read.

    Args:
      path: the file.
      dtypes: the supported dtypes, by safetensors' names.
      left_out: as in read_tensors.

    Raises:
      ValueError: the file is damaged, or a dtype is not supported.
    """
    try:  # the library checks that the header and the file's size agree, and maps the file
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        if _is_lfs_pointer(path):
            raise ValueError(
                f"{path} is a Git LFS pointer, which stands for the weights: run `git lfs pull`, "
                "or download the file itself"
            ) from None
        raise ValueError(f"{path} is truncated or damaged ({error}): download it again") from None
    # https://huggingface.co/docs/safetensors: the header's size, the header, then the tensors.
    header_bytes = int.from_bytes(read_bytes(path, 0, 8).tobytes(), "little")
    header = json.loads(read_bytes(path, 8, header_bytes).tobytes())
    return {
        name: _tensor(path, 8 + header_bytes, name, fields, dtypes)
        for name, fields in header.items()
        if name != "__metadata__" and not name.endswith(left_out)
    }


def _is_lfs_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(100)
    return start.startswith(b"version ") and b"git-lfs" in start


def _tensor(
    path: Path,
    data_start: int,
    name: str,
    fields: dict[str, Any],
    dtypes: Mapping[str, np.dtype],
) -> StoredTensor:
    shape = tuple(fields["shape"])
    if fields["dtype"] not in dtypes:
        raise ValueError(
            f"{path}: tensor {name} has dtype {fields['dtype']}, which is not supported: only "
            f"{', '.join(dtypes)} are. Use the checkpoint before quantization"
        )
    dtype = dtypes[fields["dtype"]]
    row_bytes = math.prod(shape[1:]) * dtype.itemsize
    offset = data_start + fields["data_offsets"][0]

    def read(start: int, stop: int) -> np.ndarray:
        data = read_bytes(path, offset + start * row_bytes, (stop - start) * row_bytes)
        rows: np.ndarray = data.view(dtype).reshape(stop - start, *shape[1:])
        return rows

    def columns(first: int, last: int) -> StoredTensor:
        width = (first * dtype.itemsize, last * dtype.itemsize)

        def read(start: int, stop: int) -> np.ndarray:
            at = offset + start * row_bytes
            rows: np.ndarray = read_byte_columns(path, at, row_bytes, width, stop - start)
            return rows.view(dtype)

        return StoredTensor(
            name=name,
            shape=(shape[0], last - first),
            dtype=fields["dtype"],
            num_bytes=shape[0] * (last - first) * dtype.itemsize,
            read=read,
        )

    return StoredTensor(
        name=name,
        shape=shape,
        dtype=fields["dtype"],
        num_bytes=math.prod(shape) * dtype.itemsize,
        read=read,
        columns=columns if len(shape) == 2 else None,
    )
