"""Pages of the KV cache that nobody has used yet take no memory.

XLA must not copy what it updates, so this is compiled as users do, unlike the kernels' tests.
"""

from __future__ import annotations

import functools
import resource
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from flaxen.attention_kernels.paged_attention import cpu_pages
from flaxen.kernels import cpu_library

PAGE_SIZE = 16


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(sys.platform != "linux", reason="the memory in use is read from /proc")
def test_pages_take_memory_only_when_they_are_written_to() -> None:
    if not cpu_library.is_built():
        pytest.skip("the library was not built")
    sizes = (2048, PAGE_SIZE, 2, 1024, jnp.dtype("bfloat16"))  # 256 MiB in each of two layers

    @functools.partial(jax.jit, donate_argnums=0)
    def write(layers: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return tuple(layer.at[7].set(i) for i, layer in enumerate(layers))

    before = resident_bytes()
    layers = jax.jit(lambda: (cpu_pages.empty_pages(*sizes), cpu_pages.empty_pages(*sizes)))()
    layers = jax.block_until_ready(write(layers))
    assert sum(layer.nbytes for layer in layers) == 512 << 20
    assert resident_bytes() - before < 64 << 20
    assert [float(layer[7].max()) for layer in layers] == [0, 1]  # each layer has its own
