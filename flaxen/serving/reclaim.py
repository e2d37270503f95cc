"""Returns the memory of an unloaded model, or of one that sleeps, to the system."""

from __future__ import annotations

import contextlib
import ctypes
import gc


def reclaim_memory() -> None:
    """Frees what an unloaded model leaves in cycles, and returns the memory to the system."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    with contextlib.suppress(AttributeError, OSError):  # other C libraries have no such function
        ctypes.CDLL(None).malloc_trim(0)
