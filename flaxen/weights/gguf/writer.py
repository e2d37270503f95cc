"""Writes GGUF files by the gguf package, one tensor after the other.

Deliberately does not know what keys and tensors mean.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flaxen.tensors.tensor import StoredTensor, row_ranges
from flaxen.weights.gguf.out_types import encode_rows, row_bytes

_PIECE = 1 << 20  # values read at once


@dataclass(frozen=True, kw_only=True)
class OutTensor:
    """A tensor to write, and the type to write it in."""

    stored: StoredTensor
    kind: int  # ggml's type number

    @property
    def keeps_blocks(self) -> bool:
        """Whether the bytes of a GGUF file are written as they are."""
        return self.stored.blocks is not None and self.stored.blocks.kind == self.kind

    @property
    def num_bytes(self) -> int:
        """The size of the tensor in the file."""
        return self.stored.shape[0] * row_bytes(self.kind, self.stored.shape)


def write_gguf(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Sequence[OutTensor],
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes a file. At any time it holds one tensor in memory, as it is written.

    Args:
      path: a new file.
      metadata: strings, booleans, whole numbers (as uint32), floats (as float32), and lists (whole
          numbers as int32); it has general.architecture.
      tensors: in the order of the file.
      on_progress: called with the bytes written and the total bytes.

    Raises:
      ValueError: a value does not fit into its type.
      OSError: the file can't be written.
    """
    # Imported here, because it takes a quarter of a second.
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(path, metadata["general.architecture"])
    adders: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    for key, value in metadata.items():
        if key != "general.architecture":
            adders[type(value)](key, value)
    for tensor in tensors:
        kind = GGMLQuantizationType(tensor.kind)
        stored = tensor.stored
        float32 = np.dtype(np.float32)  # says that the shape counts values
        writer.add_tensor_info(stored.name, stored.shape, float32, tensor.num_bytes, kind)
    total, done = sum(tensor.num_bytes for tensor in tensors), 0
    try:
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor in tensors:
                _write(writer, _encoded(tensor, pool), path)
                done += tensor.num_bytes
                if on_progress is not None:
                    on_progress(done, total)
    finally:
        writer.close()


def _encoded(tensor: OutTensor, pool: ThreadPoolExecutor) -> np.ndarray:
    """The bytes of a tensor in the file. Several threads quantize its pieces."""
    stored, kind = tensor.stored, tensor.kind
    out = np.empty((stored.shape[0], row_bytes(kind, stored.shape)), np.uint8)

    def fill(start: int, stop: int) -> None:
        if tensor.keeps_blocks:
            assert stored.blocks is not None
            out[start:stop] = stored.blocks.read(start, stop)
        else:
            out[start:stop] = encode_rows(stored.name, stored.read(start, stop), kind)

    futures = [pool.submit(fill, *each) for each in row_ranges(stored, _PIECE)]
    try:
        for future in futures:
            future.result()
    except BaseException:
        for future in futures:  # the rest is not needed after an error
            future.cancel()
        raise
    return out


def _write(writer: Any, data: np.ndarray, path: Path) -> None:
    try:
        writer.write_tensor_data(data)
    except OSError as error:
        if error.errno is not None:
            raise
        # NumPy's own error counts bytes, and does not say what they were written to.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
