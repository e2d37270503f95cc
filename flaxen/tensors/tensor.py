"""One tensor in a file, whatever the format. Deliberately does not know formats or models."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flaxen.tensors.packing.layout import Layout, WeightRows


@dataclass(frozen=True, kw_only=True)
class QuantizedRows:
    """Reads the rows of a quantized tensor as they are stored, without loss."""

    layout: Layout
    read: Callable[[int, int], WeightRows]  # like StoredTensor.read
    # int32 [in]: the k-th stored input is input order[k] of the weight; None for its own order
    order: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class BlockRows:
    """Reads the rows of a tensor of a GGUF file as bytes, whatever its type."""

    kind: int  # ggml's type number
    read: Callable[[int, int], np.ndarray]  # like StoredTensor.read: uint8 [rows, bytes of a row]


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor in a file, which can be read in pieces.

    `read(start, stop)` returns the rows from start to stop of the first axis, in a floating dtype.
    It is thread-safe, and raises ValueError if the file has become shorter.
    """

    name: str  # in the file
    shape: tuple[int, ...]  # outermost axis first
    dtype: str  # the format's own name of the dtype
    num_bytes: int  # in the file
    read: Callable[[int, int], np.ndarray]
    quantized: QuantizedRows | None = None  # for types that a PackedLinear can store
    blocks: BlockRows | None = None  # for whole rows of a GGUF file
    row_unit: int = 1  # rows are best read in multiples of this
    # For a matrix whose ranges of columns can be read alone: makes the tensor of such a range.
    columns: Callable[[int, int], StoredTensor] | None = None
    # For a stack of matrices: makes the tensor of one of them, which may be quantized.
    entry: Callable[[int], StoredTensor] | None = None


def row_ranges(
    stored: StoredTensor,
    num_values: int,
    *,
    unit: int = 1,
    first: int = 0,
    last: int | None = None,
) -> Iterator[tuple[int, int]]:
    """The ranges of rows to read a tensor in, one after the other.

    Args:
      stored: the tensor.
      num_values: about as many values are read at once, if its row_unit allows.
      unit: the number of rows of each range is a multiple of this, except of the last.
      first: the first row.
      last: the row after the last; None is the end of the tensor.
    """
    last = stored.shape[0] if last is None else last
    unit = math.lcm(unit, stored.row_unit)
    step = unit * max(1, num_values // math.prod(stored.shape[1:]) // unit)
    for start in range(first, last, step):
        yield start, min(start + step, last)


def read_bytes(path: Path, offset: int, num_bytes: int) -> np.ndarray:
    """Reads a part of a file as uint8.

    Not by mmap, because mapped pages would count as memory of this process.

    Raises:
      ValueError: the file is too short.
    """
    data = np.empty(num_bytes, np.uint8)
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        done = 0
        while done < num_bytes:  # one read returns at most 2 GiB
            num_read = file.readinto(data[done:].data)
            if not num_read:
                raise ValueError(
                    f"{path} ends at byte {offset + done}, before byte {offset + num_bytes}, which "
                    "it had when it was opened: it was changed while it was read. Start again"
                )
            done += num_read
    return data


def read_byte_columns(
    path: Path, offset: int, row_bytes: int, columns: tuple[int, int], num_rows: int
) -> np.ndarray:
    """Reads the same bytes of each of several rows: uint8 [num_rows, bytes].

    Args:
      path: the file.
      offset: where the first row begins.
      row_bytes: from the beginning of a row to that of the next.
      columns: the first byte of each row, and the one after its last.
      num_rows: how many.

    Raises:
      ValueError: the file is too short.
    """
    first, last = columns
    data = np.empty((num_rows, last - first), np.uint8)
    with path.open("rb", buffering=0) as file:
        for index in range(num_rows):
            place = offset + index * row_bytes + first
            if os.preadv(file.fileno(), [data[index].data], place) < last - first:
                # An interrupted read, or the end of the file, of which this one tells.
                data[index] = read_bytes(path, place, last - first)
    return data
