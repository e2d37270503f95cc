"""Reads Hugging Face checkpoints: a directory with config.json and safetensors files.

Nothing else of the directory is opened: no pickle (.bin, .pt), no Python file, whatever the
configuration's auto_map says. Deliberately does not know what a configuration's fields mean.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from flaxen.weights.tensor import StoredTensor, read_bytes

_DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object.

    Raises:
      ValueError: no such file, or not that.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist: {path.parent} is no complete checkpoint")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}. Download it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def architecture(fields: dict[str, Any]) -> str:
    """The name by which a config.json calls its family.

    Raises:
      ValueError: it has none, or several.
    """
    names = fields.get("architectures") or [fields.get("model_type")]
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise ValueError(
            f"architectures must name one architecture, got {fields.get('architectures')!r}, and "
            f"model_type is {fields.get('model_type')!r}"
        )
    return names[0]


def read_tensors(directory: Path) -> dict[str, StoredTensor]:
    """The tensors of all shards, which stay on disk until they are read.

    Args:
      directory: holds model.safetensors, or model.safetensors.index.json and the shards it names.

    Raises:
      ValueError: neither is there, a shard is missing or damaged, or a dtype is not supported.
    """
    if (directory / _INDEX).is_file():
        return _indexed(directory)
    if (directory / _SINGLE).is_file():
        return file_tensors(directory / _SINGLE)
    pickles = sorted(p.name for p in directory.iterdir() if p.suffix in (".bin", ".pt", ".pth"))
    if pickles:
        raise ValueError(
            f"{directory} has no {_SINGLE} nor {_INDEX}; {pickles[0]} is there, but pickle files "
            "can run code and are never read: convert them to safetensors"
        )
    raise ValueError(f"{directory} has no {_SINGLE} nor {_INDEX}: download the weights")


def is_complete(directory: Path) -> bool:
    """Whether config, tokenizer and all the weights are there; nobody looks into them.

    A cache that another program filled often lacks the tokenizer: AutoModel reads none.
    """
    if not all((directory / name).is_file() for name in ("config.json", "tokenizer.json")):
        return False
    if (directory / _INDEX).is_file():
        return all((directory / shard).is_file() for shard in _shards(directory / _INDEX)[1])
    return (directory / _SINGLE).is_file()


def _indexed(directory: Path) -> dict[str, StoredTensor]:
    path = directory / _INDEX
    shard_of, shards = _shards(path)
    tensors: dict[str, StoredTensor] = {}
    for shard in shards:
        if not (directory / shard).is_file():
            raise ValueError(
                f"{directory / shard} does not exist, but {_INDEX} names it: download it"
            )
        held = file_tensors(directory / shard)
        tensors |= {name: held[name] for name in held if shard_of.get(name) == shard}
    for name, shard in shard_of.items():
        if name not in tensors:
            raise ValueError(f"{path}: tensor {name} is not in {shard}: download both again")
    return tensors


def _shards(path: Path) -> tuple[dict[str, str], list[str]]:
    """The index's file for each tensor, and those files."""
    shard_of = read_json(path).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise ValueError(f"{path} must have a weight_map object, got {shard_of!r}")
    for shard in shard_of.values():
        # The index comes with the weights: it must not lead out of their directory.
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise ValueError(f"{path}: weight_map names {shard!r}, which is no file beside it")
    return shard_of, sorted(set(shard_of.values()))


def file_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, which stay on disk until they are read.

    Raises:
      ValueError: it is damaged, or a dtype is not supported.
    """
    try:  # the library checks that the header and the file's size agree, and maps the file
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is truncated or damaged ({error}): download it again") from None
    # https://huggingface.co/docs/safetensors: the header's size, the header, then the tensors.
    header_bytes = int.from_bytes(read_bytes(path, 0, 8).tobytes(), "little")
    header = json.loads(read_bytes(path, 8, header_bytes).tobytes())
    return {
        name: _tensor(path, 8 + header_bytes, name, fields)
        for name, fields in header.items()
        if name != "__metadata__"
    }


def _tensor(path: Path, data_start: int, name: str, fields: dict[str, Any]) -> StoredTensor:
    shape = tuple(fields["shape"])
    if fields["dtype"] not in _DTYPES:
        raise ValueError(
            f"{path}: tensor {name} has dtype {fields['dtype']}, which is not supported: only "
            f"{', '.join(_DTYPES)} are. Use the checkpoint before quantization"
        )
    dtype = _DTYPES[fields["dtype"]]
    row_bytes = math.prod(shape[1:]) * dtype.itemsize
    offset = data_start + fields["data_offsets"][0]

    def read(start: int, stop: int) -> np.ndarray:
        data = read_bytes(path, offset + start * row_bytes, (stop - start) * row_bytes)
        rows: np.ndarray = data.view(dtype).reshape(stop - start, *shape[1:])
        return rows

    return StoredTensor(
        name=name,
        shape=shape,
        dtype=fields["dtype"],
        num_bytes=math.prod(shape) * dtype.itemsize,
        read=read,
    )
