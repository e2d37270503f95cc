"""The part that names the device and measures its limits: a large copy, and a large product."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jaxlib.version

from flaxen.kernels.device import describe_devices, memory_limit
from flaxen.kernels.hardware import driver_version

from .figures import say

_NUM_RUNS = 5
_NUM_CALLS = 10  # in one run, so that starting one costs nothing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    say("device", describe_devices())
    say("driver", driver_version("cuda") or driver_version("rocm"))
    say("versions", {"jax": jax.__version__, "jaxlib": jaxlib.version.__version__})
    say("memory_limit_bytes", memory_limit())
    say("copy_bytes_s", copy_bytes_s(2**20 if args.tiny else 2**31))
    say("matmul_flops", matmul_flops(256 if args.tiny else 8192))


def copy_bytes_s(num_bytes: int) -> float:
    """Bytes read and written a second by a copy that fits into no cache."""
    numbers = jnp.ones(num_bytes // 4, jnp.int32)
    flip = jax.jit(lambda x: x ^ 1)  # not the identity, which XLA would leave out
    return 2 * num_bytes / _best_s(lambda: flip(numbers))


def matmul_flops(side: int) -> float:
    """Operations a second of a square bfloat16 product. Random numbers: a GPU that multiplies
    zeros needs less power, and is faster than it would ever be.
    """
    a, b = (
        jax.random.normal(jax.random.key(seed), (side, side), jnp.bfloat16) for seed in range(2)
    )
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


if __name__ == "__main__":
    main()
