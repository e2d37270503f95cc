"""One tensor in a file, whatever the format. Deliberately does not know formats or models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """What a file says of a tensor, and how to read it in pieces.

    `read(start, stop)` returns the rows from start to stop of the first axis, in a floating dtype.
    It may be called by several threads.
    """

    name: str  # in the file
    shape: tuple[int, ...]  # outermost axis first
    dtype: str  # in the format's own words
    num_bytes: int  # in the file
    read: Callable[[int, int], np.ndarray]
