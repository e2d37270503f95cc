"""Pages that a window has passed belong to others: attention must not see what is in them."""

from __future__ import annotations

from collections.abc import Callable
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
