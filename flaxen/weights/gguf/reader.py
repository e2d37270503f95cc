"""Reads GGUF files: the metadata as Python values, and the tensors' places in the file.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
The header is parsed here and not by the gguf package, whose reader makes a NumPy array of every
token of the vocabulary, which takes seconds. Deliberately does not know the meaning of keys.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flaxen.tensors.packing.layout import WeightRows
from flaxen.tensors.tensor import BlockRows, QuantizedRows, StoredTensor, read_bytes
from flaxen.weights.gguf.blocks import block_type, read_rows
from flaxen.weights.gguf.stored import LAYOUTS, read_stored

_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")  # of a string, in bytes
_VERSIONS = (2, 3)
_MAX_DIMENSIONS = 4


@dataclass(frozen=True, kw_only=True)
class GgufFile:
    """The contents of one GGUF file; tensor data stays on disk until it is read."""

    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


@dataclass(kw_only=True)
class _Cursor:
    """A read position in the file's bytes, with bounds checks. Mutated by each read."""

    path: Path
    data: memoryview
    offset: int = 0

    def take(self, layout: str, what: str) -> Any:
        size = struct.calcsize("<" + layout)
        self.need(size, what)
        (value,) = struct.unpack_from("<" + layout, self.data, self.offset)
        self.offset += size
        return value

    def string(self, what: str) -> str:
        """Reads a string, in few operations: a vocabulary and its merges are a hundred thousand."""
        start = end = self.offset + _LENGTH.size
        if start <= len(self.data):
            end += _LENGTH.unpack_from(self.data, self.offset)[0]
        if end > len(self.data):
            self.need(end - self.offset, what)
        self.offset = end
        try:
            return str(self.data[start:end], "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self.path}: {what} is not UTF-8 ({error}): a damaged file"
            ) from None

    def need(self, size: int, what: str) -> None:
        if self.offset + size > len(self.data):
            raise ValueError(
                f"{self.path} is truncated: it ends at byte {len(self.data)}, inside {what}. "
                "Download it again"
            )


def read_gguf(path: Path) -> GgufFile:
    """Opens a GGUF file and reads its header.

    Args:
      path: the file.

    Raises:
      ValueError: the file is not GGUF, has an unsupported version or tensor type, or is truncated.
    """
    if path.stat().st_size < 4:
        raise ValueError(f"{path} is truncated or empty: it has {path.stat().st_size} bytes")
    mapped = np.memmap(path, dtype=np.uint8, mode="r")
    cursor = _Cursor(path=path, data=mapped.data)
    magic = bytes(cursor.data[:4])
    if magic != b"GGUF":
        raise ValueError(f"{path} is no GGUF file: it starts with {magic!r}, not b'GGUF'")
    cursor.offset = 4
    version = cursor.take("I", "the version")
    if version not in _VERSIONS:
        raise ValueError(
            f"{path} has GGUF version {version}, or the other byte order: versions "
            f"{_VERSIONS[0]} and {_VERSIONS[1]} in little-endian are read. Convert it again"
        )
    num_tensors = cursor.take("Q", "the number of tensors")
    num_keys = cursor.take("Q", "the number of keys")
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key = cursor.string("a metadata key")
        if key in metadata:
            raise ValueError(f"{path} has the metadata key {key} twice: a damaged file")
        metadata[key] = _value(cursor, cursor.take("I", f"metadata {key}"), f"metadata {key}")
    infos = [_tensor_info(cursor) for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise ValueError(
            f"{path}: general.alignment must be a power of two, got {alignment!r}: a damaged file"
        )
    start = -(-cursor.offset // alignment) * alignment
    tensors: dict[str, StoredTensor] = {}
    for name, shape, kind, offset in infos:
        if name in tensors:
            raise ValueError(f"{path} has the tensor {name} twice: a damaged file")
        tensors[name] = _tensor(path, mapped.size, name, shape, kind, start + offset)
    return GgufFile(metadata=metadata, tensors=tensors)


def _value(cursor: _Cursor, kind: int, what: str) -> Any:
    if kind == _STRING:
        return cursor.string(what)
    if kind != _ARRAY:
        return cursor.take(_scalar(cursor, kind, what), what)
    element, length = cursor.take("I", what), cursor.take("Q", what)
    if element == _STRING:
        return [cursor.string(what) for _ in range(length)]
    layout = _scalar(cursor, element, what)
    size = length * struct.calcsize("<" + layout)
    cursor.need(size, what)
    values = struct.unpack_from(f"<{length}{layout}", cursor.data, cursor.offset)
    cursor.offset += size
    return list(values)


def _scalar(cursor: _Cursor, kind: int, what: str) -> str:
    if kind not in _SCALARS:
        raise ValueError(f"{cursor.path}: {what} has value type {kind}, which is not supported")
    return _SCALARS[kind]


def _tensor_info(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.string("a tensor's name")
    num_dims = cursor.take("I", f"tensor {name}")
    if not 1 <= num_dims <= _MAX_DIMENSIONS:
        raise ValueError(f"{cursor.path}: tensor {name} has {num_dims} dimensions: a damaged file")
    dims = tuple(cursor.take("Q", f"tensor {name}") for _ in range(num_dims))
    kind = cursor.take("I", f"tensor {name}")
    return name, dims[::-1], kind, cursor.take("Q", f"tensor {name}")


def _tensor(
    path: Path, file_bytes: int, name: str, shape: tuple[int, ...], kind: int, offset: int
) -> StoredTensor:
    try:
        block = block_type(kind)
    except ValueError as error:
        raise ValueError(f"{path}: tensor {name} has {error}") from None
    if shape[-1] == 0 or shape[-1] % block.values:
        raise ValueError(
            f"{path}: tensor {name} has rows of {shape[-1]} values, which is no multiple of the "
            f"{block.values} in a block of {block.name}: a damaged file"
        )
    num_bytes = math.prod(shape) // block.values * block.bytes
    if offset + num_bytes > file_bytes:
        raise ValueError(
            f"{path} is truncated: it ends at byte {file_bytes}, inside tensor {name}. "
            "Download it again"
        )
    row_bytes = num_bytes // shape[0]

    def blocks(start: int, stop: int) -> np.ndarray:
        data = read_bytes(path, offset + start * row_bytes, (stop - start) * row_bytes)
        return data.reshape(stop - start, row_bytes)

    def read(start: int, stop: int) -> np.ndarray:
        return read_rows(kind, blocks(start, stop)).reshape(stop - start, *shape[1:])

    def stored(start: int, stop: int) -> WeightRows:
        return read_stored(kind, blocks(start, stop))

    def entry(index: int) -> StoredTensor:
        return _tensor(path, file_bytes, name, shape[1:], kind, offset + index * row_bytes)

    quantized = None
    if kind in LAYOUTS and len(shape) == 2:
        quantized = QuantizedRows(layout=LAYOUTS[kind], read=stored)
    return StoredTensor(
        name=name,
        shape=shape,
        dtype=block.name,
        num_bytes=num_bytes,
        read=read,
        quantized=quantized,
        blocks=BlockRows(kind=kind, read=blocks),
        entry=entry if len(shape) == 3 else None,
    )
