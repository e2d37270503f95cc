"""Memory for weights: on huge pages if the system has them, used by JAX without a copy.

With ordinary pages of 4 KiB a single stream loses up to a fifth of its speed. Deliberately does not
know the contents.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import sys
import threading

import numpy as np

_SEGMENT = 64 << 20  # bytes mapped at once
_HUGE_PAGE = 2 << 20  # bytes
_ALIGNMENT = 64  # bytes; JAX's CPU backend copies arrays with a smaller alignment


class WeightMemory:
    """Allocates adjacent arrays of zeros. Thread-safe.

    The memory lives as long as an array in it does; untouched pages take no memory.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free = np.empty(0, np.uint8)  # the unused rest of the last segment

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Makes an array that jax.device_put does not copy. It must not be written after that."""
        num_bytes = math.prod(shape) * dtype.itemsize
        rounded = -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
        with self._lock:
            if rounded > self._free.size:
                self._free = _segment(max(rounded, _SEGMENT))
            taken, self._free = self._free[:rounded], self._free[rounded:]
        return taken[:num_bytes].view(dtype).reshape(shape)


def _segment(num_bytes: int) -> np.ndarray:
    """Maps zeroed memory, aligned to a huge page."""
    size = num_bytes + _HUGE_PAGE
    mapped = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory = np.frombuffer(mapped, np.uint8)
    start = -memory.ctypes.data % _HUGE_PAGE
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # only a hint: kernels without huge pages refuse it
            mapped.madvise(mmap.MADV_HUGEPAGE)
    return memory[start : start + num_bytes]
