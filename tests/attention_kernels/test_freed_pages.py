"""Pages that a window has passed belong to others: attention must not see what is in them. And
pages that nobody has used yet take no memory.
"""

from __future__ import annotations

import functools
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.attention_kernels.paged_attention import blocked, cpu, cpu_pages, reference
from flaxen.kernels import cpu_library
from tests.attention_kernels.paged_batches import make_batch, make_inputs

PAGE_SIZE, WINDOW = 16, 40
LENGTHS = [(1, 300), (7, 250), (20, 41), (1, 39), (64, 200), (1, 129)]


def run_cpu(q: Any, k: Any, v: Any, cache: Any, batch: Any) -> Any:
    out, _ = cpu.paged_attention(q, k, v, cpu_pages.from_reference(cache), batch, window=WINDOW)
    return out


def run_xla(module: Any) -> Callable[..., Any]:
    return lambda *inputs: module.paged_attention(*inputs, window=WINDOW)[0]


@pytest.mark.parametrize("name", ["reference", "blocked", "cpu"])
def test_what_lies_in_freed_pages_is_never_seen(name: str) -> None:
    if name == "cpu" and not cpu_library.is_built():
        pytest.skip("the library was not built")
    attend = (
        run_cpu if name == "cpu" else run_xla({"reference": reference, "blocked": blocked}[name])
    )
    batch, num_pages = make_batch(LENGTHS, PAGE_SIZE, len(LENGTHS))
    num_tokens = sum(q_len for q_len, _ in LENGTHS)
    q, k, v, cache = make_inputs(num_tokens, (4, 2, 16), num_pages, PAGE_SIZE, "float32")
    expected = attend(q, k, v, cache, batch)
    table = np.array(batch.page_table)
    owned = set()
    for line, (q_len, kv_len) in enumerate(LENGTHS):
        first = max(0, kv_len - q_len - WINDOW + 1) // PAGE_SIZE
        table[line, :first] = -1
        owned |= set(table[line, first : -(-kv_len // PAGE_SIZE)].tolist())
    freed = np.setdiff1d(np.arange(num_pages), sorted(owned))
    assert len(freed) > 20
    poisoned = jax.tree.map(lambda each: each.at[freed].set(jnp.nan), cache)
    found = attend(q, k, v, poisoned, batch._replace(page_table=jnp.asarray(table)))
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(np.asarray(found)).all()


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
