"""Measures the machine's limits: memory read bandwidth, and multiply-adds.

Knows: how to time both. Deliberately does not know models or engines.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flaxen.kernels.backend import Backend

BUFFER_BYTES = 1 << 30  # far larger than any cache, so that memory is read
_SIDE = 2048  # of the square matrices: large enough to be compute-bound
_NUM_RUNS = 5


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The machine's limits, the best of a few runs because other programs may run too."""

    read_bytes_s: float  # bytes a second, all cores reading
    matmul_flops: dict[str, float]  # dtype -> floating-point operations a second

    @property
    def peak_flops(self) -> float:
        """The rate of the fastest dtype: a product in a narrow dtype may also be computed in a
        wider one.
        """
        return max(self.matmul_flops.values())


def best_limits(first: Limits, second: Limits) -> Limits:
    """The better of two measurements, figure by figure."""
    return Limits(
        read_bytes_s=max(first.read_bytes_s, second.read_bytes_s),
        matmul_flops={
            dtype: max(flops, second.matmul_flops[dtype])
            for dtype, flops in first.matmul_flops.items()
        },
    )


def times_devices(limits: Limits, num_devices: int) -> Limits:
    """The limits of several devices that are alike."""
    return Limits(
        read_bytes_s=num_devices * limits.read_bytes_s,
        matmul_flops={dtype: num_devices * each for dtype, each in limits.matmul_flops.items()},
    )


def measure_limits(
    compute_dtype: str,
    backend: Backend,
    *,
    num_devices: int = 1,
    buffer_bytes: int = BUFFER_BYTES,
) -> Limits:
    """Measures for a few seconds: the host's memory and processors, or an accelerator's.

    Args:
      compute_dtype: measured in addition to float32.
      backend: the backend whose products are measured.
      num_devices: those of a mesh. One accelerator is measured, and counts as often; the virtual
        devices of a CPU share it.
      buffer_bytes: how much memory is read; a size that fits into the caches measures those.
    """
    from flaxen.kernels.device import is_accelerator

    dtypes = sorted({compute_dtype, "float32"})
    if is_accelerator():
        return times_devices(device_limits(dtypes), num_devices)
    return Limits(
        read_bytes_s=_read_bytes_s(buffer_bytes),
        matmul_flops={dtype: _matmul_flops(dtype, backend) for dtype in dtypes},
    )


def device_limits(
    dtypes: Sequence[str], *, copy_bytes: int | None = None, side: int | None = None
) -> Limits:
    """Measures the device that JAX computes on. Its bandwidth is that of a copy, whose bytes count
    twice: nothing reads memory faster.

    Args:
      dtypes: of the products.
      copy_bytes: the size of the copy; None is one that fits into no cache, or less where an
        engine has left less memory.
      side: of the square matrices; None is one that is compute-bound.
    """
    from flaxen.kernels.device import free_memory
    from flaxen.kernels.device_speed import PRODUCT_SIDE, copy_bytes_s, copy_size, product_flops

    flops = {dtype: product_flops(dtype, side or PRODUCT_SIDE) for dtype in dtypes}
    return Limits(
        read_bytes_s=copy_bytes_s(copy_bytes or copy_size(free_memory())), matmul_flops=flops
    )


def _best_s(work: Callable[[], object]) -> float:
    times = []
    for _ in range(_NUM_RUNS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _read_bytes_s(buffer_bytes: int) -> float:
    import numpy as np

    buffer = np.empty(buffer_bytes // 8, np.int64)
    buffer.fill(1)  # untouched pages all map to one cached page of zeros
    # A container may have fewer cores than the machine.
    num_cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with ThreadPoolExecutor(num_cores) as pool:
        # An OR of integers is one vector instruction per load, and NumPy releases the interpreter
        # lock.
        chunks = np.array_split(buffer, num_cores)
        elapsed_s = _best_s(lambda: list(pool.map(np.bitwise_or.reduce, chunks)))
    return float(buffer.nbytes / elapsed_s)


def _matmul_flops(dtype: str, backend: Backend) -> float:
    import jax
    import jax.numpy as jnp

    from flaxen.kernels import cpu_library
    from flaxen.kernels.backend import Backend

    if backend is Backend.CPU:
        return max(cpu_library.peak_flops(dtype) for _ in range(_NUM_RUNS))
    square = jnp.ones((_SIDE, _SIDE), dtype)
    product = jax.jit(lambda a: a @ a)
    product(square).block_until_ready()  # compiles
    return 2 * _SIDE**3 / _best_s(lambda: product(square).block_until_ready())
