"""Returns the memory of an unloaded model, or of one that sleeps, to the system."""

from __future__ import annotations

import gc

from flaxen.engine.freed_memory import return_freed_memory


def reclaim_memory() -> None:
    """Frees what an unloaded model leaves in cycles, and returns the memory to the system."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    return_freed_memory()
