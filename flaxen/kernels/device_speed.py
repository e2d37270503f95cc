"""Measures what an accelerator itself reaches: the bandwidth of a copy, and the rate of a product.

A call is dispatched while the one before it runs, and only the last is waited for: on a GPU or TPU
starting a kernel and waiting for it takes longer than many kernels. Deliberately does not know
models.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

COPY_BYTES = 2**31  # fits into no cache
PRODUCT_SIDE = 8192  # of the square matrices
_NUM_RUNS = 5
_NUM_CALLS = 10  # in one run


def copy_size(free: int | None) -> int:
    """The bytes of a copy to measure, for which a device has room twice, and as much for others.

    Args:
      free: the bytes that are free on the device; None if it does not say.
    """
    return COPY_BYTES if free is None else max(4, min(COPY_BYTES, free // 4))


def copy_bytes_s(num_bytes: int = COPY_BYTES) -> float:
    """Bytes read and written a second by a copy of `num_bytes`."""
    numbers = jnp.ones(num_bytes // 4, jnp.int32)
    flip = jax.jit(lambda x: x ^ 1)  # not the identity, which XLA would leave out
    return 2 * num_bytes / _best_s(lambda: flip(numbers))


def product_flops(dtype: str = "bfloat16", side: int = PRODUCT_SIDE) -> float:
    """Operations a second of a square product. Its numbers are random: a GPU that multiplies zeros
    needs less power, and is faster than it would ever be.
    """
    a, b = (jax.random.normal(jax.random.key(seed), (side, side), dtype) for seed in range(2))
    product = jax.jit(jnp.matmul)
    return 2 * side**3 / _best_s(lambda: product(a, b))


def _best_s(call: Callable[[], jax.Array]) -> float:
    """The seconds of one call, the best of a few runs."""
    call().block_until_ready()  # compiles
    best = float("inf")
    for _ in range(_NUM_RUNS):
        start_s = time.perf_counter()
        for _ in range(_NUM_CALLS - 1):
            call()
        call().block_until_ready()
        best = min(best, (time.perf_counter() - start_s) / _NUM_CALLS)
    return best
