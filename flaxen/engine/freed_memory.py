"""Returns memory that this process has freed to the system: the C library keeps it otherwise."""

from __future__ import annotations

import contextlib
import ctypes


def return_freed_memory() -> None:
    """Takes about 20 ms, in which other threads' allocations may wait."""
    with contextlib.suppress(AttributeError, OSError):  # other C libraries have no such function
        ctypes.CDLL(None).malloc_trim(0)
