"""One tensor in a file, whatever the format. Deliberately does not know formats or models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flaxen.weights.packing.layout import Layout, Rows


@dataclass(frozen=True, kw_only=True)
class QuantizedRows:
    """How to read the rows of a quantized tensor as they are stored, without loss."""

    layout: Layout
    read: Callable[[int, int], Rows]  # as StoredTensor.read


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """What a file says of a tensor, and how to read it in pieces.

    `read(start, stop)` returns the rows from start to stop of the first axis, in a floating dtype.
    It may be called by several threads, and raises ValueError where the file has become shorter.
    """

    name: str  # in the file
    shape: tuple[int, ...]  # outermost axis first
    dtype: str  # in the format's own words
    num_bytes: int  # in the file
    read: Callable[[int, int], np.ndarray]
    quantized: QuantizedRows | None = None  # of the types whose numbers a PackedLinear can hold
    row_unit: int = 1  # rows are best read in multiples of it


def read_bytes(path: Path, offset: int, num_bytes: int) -> np.ndarray:
    """A part of a file, as uint8.

    A plain read: the pages of a mapped file would count as memory of this process.

    Raises:
      ValueError: the file ends before.
    """
    data = np.empty(num_bytes, np.uint8)
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        done = 0
        while done < num_bytes:  # one read brings at most 2 GiB
            num_read = file.readinto(data[done:].data)
            if not num_read:
                raise ValueError(
                    f"{path} ends at byte {offset + done}, before byte {offset + num_bytes}, which "
                    "it had when it was opened: it was changed while it was read. Start again"
                )
            done += num_read
    return data
