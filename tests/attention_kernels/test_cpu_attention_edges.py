"""The C++ paged attention: corrupt batches, gradients, layouts, refusals."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.attention_kernels import paged_attention as ops
from flaxen.attention_kernels.paged_attention import KvPages, reference
from flaxen.attention_kernels.paged_attention.cpu import paged_attention
from flaxen.attention_kernels.paged_attention.cpu_pages import (
    empty_pages,
    from_reference,
    to_reference,
)
from flaxen.kernels.backend import Backend
from flaxen.kernels.paged_batch import PagedBatch
from tests.attention_kernels.paged_batches import (
    OPTIONS,
    Lengths,
    Options,
    make_batch,
    make_inputs,
    options_for,
)
from tests.kernels.arrays import as_f32, normal


def bad_batches(good: PagedBatch) -> dict[str, PagedBatch]:
    kv_lens, table, cu_q_lens = (np.asarray(x) for x in good)
    return {
        "no such page": good._replace(page_table=jnp.asarray(table + 10**6)),
        "a negative page": good._replace(page_table=jnp.asarray(-1 - table)),
        "more tokens than pages": good._replace(kv_lens=jnp.asarray(kv_lens + 10**6)),
        "negative lengths": good._replace(kv_lens=jnp.asarray(-kv_lens)),
        "fewer than the new ones": good._replace(kv_lens=jnp.asarray(kv_lens * 0 + 1)),
        "tokens that are not there": good._replace(cu_q_lens=jnp.asarray(cu_q_lens * 1000)),
        "tokens before the first": good._replace(cu_q_lens=jnp.asarray(cu_q_lens - 1000)),
        "backwards": good._replace(cu_q_lens=jnp.asarray(cu_q_lens[::-1].copy())),
    }


@pytest.mark.parametrize("name", bad_batches(make_batch([(3, 40), (2, 20)], 16, 3)[0]))
def test_a_corrupt_batch_writes_nowhere_else(isa: str, name: str) -> None:
    lengths: Lengths = [(3, 40), (2, 20)]
    good, num_pages = make_batch(lengths, 16, 3)
    batch = bad_batches(good)[name]
    inputs = make_inputs(8, (2, 1, 16), num_pages, 16, "float32")
    old = np.asarray(from_reference(inputs[3]))
    out, pages = paged_attention(*inputs[:3], jnp.asarray(old), batch)
    assert np.isfinite(out).all()
    new_pages = np.asarray(pages)
    used = np.asarray(good.page_table)[[0, 0, 0, 1, 1], [0, 1, 2, 0, 1]]
    unused = np.setdiff1d(np.arange(num_pages), used)
    np.testing.assert_array_equal(new_pages[unused], old[unused])
    if name in ("no such page", "a negative page", "more tokens than pages", "negative lengths"):
        np.testing.assert_array_equal(new_pages, old)


@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_are_the_references(options: str) -> None:
    lengths: Lengths = [(3, 3), (1, 20), (6, 30)]
    batch, num_pages = make_batch(lengths, 16, 3)
    q, k, v, cache = make_inputs(12, (4, 2, 8), num_pages, 16, "float32")
    chosen = options_for(options, 4)
    sinks = chosen.pop("sinks", None)
    weights, more = normal("out", *q.shape), normal("pages", *cache[0].shape)

    def loss(attend: Callable[..., Any], *inputs: Any) -> jax.Array:
        q, k, v, cache, sinks = inputs
        out, new = attend(q, k, v, cache, batch, sinks=sinks, **chosen)
        new = new if isinstance(new, KvPages) else to_reference(new, 8)
        return jnp.sum(out * weights) + jnp.sum(new[0] * more) + jnp.sum(new[1] * more)

    wanted = (0, 1, 2, 3) if sinks is None else (0, 1, 2, 3, 4)
    inputs = (q, k, v, cache, sinks)
    expected = jax.grad(functools.partial(loss, reference.paged_attention), wanted)(*inputs)
    inputs = (q, k, v, from_reference(cache), sinks)
    found = jax.grad(functools.partial(loss, paged_attention), wanted)(*inputs)
    found = (*found[:3], to_reference(found[3], 8), *found[4:])
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        assert np.asarray(other).any()


def test_nan_in_stale_slots_does_not_reach_the_gradient() -> None:
    batch, num_pages = make_batch([(2, 20)], 16, 1)
    q, k, v, cache = make_inputs(3, (2, 1, 8), num_pages, 16, "float32")
    last = int(batch.page_table[0, 1])
    stale = jax.tree.map(lambda x: x.at[last, 4:].set(jnp.nan).at[last - 1].set(x[last - 1]), cache)

    def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.sum(paged_attention(q, k, v, from_reference(stale), batch)[0] ** 2)

    for gradient in jax.grad(loss, (0, 1, 2))(q, k, v):
        assert np.isfinite(gradient).all()


def test_each_backend_has_its_own_pages() -> None:
    batch, num_pages = make_batch([(4, 4), (3, 3)], 16, 2)
    q, k, v, _ = make_inputs(7, (4, 2, 16), num_pages, 16, "float32")
    outs = []
    f32 = jnp.dtype("float32")
    for backend in (each for each in Backend if ops.has_pages(16, f32, backend=each)):
        cache = ops.empty_cache(num_pages, 16, 2, 16, f32, backend=backend)
        # Keys and values apart, except where a kernel reads them as one array.
        assert isinstance(cache, tuple) == (backend not in (Backend.CPU, Backend.TPU))
        out, new = ops.paged_attention(q, k, v, cache, batch, backend=backend)
        assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, cache)
        outs.append(np.asarray(out))
    assert len(outs) >= 5
    for other in outs[1:]:
        np.testing.assert_allclose(outs[0], other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layouts_convert_back_and_forth(dtype: str) -> None:
    cache = KvPages(
        normal("keys", 3, 16, 2, 6, dtype=dtype), normal("values", 3, 16, 2, 6, dtype=dtype)
    )
    pages = from_reference(cache)
    pack = 4 // pages.dtype.itemsize
    for one, other in zip(to_reference(pages, 6), cache, strict=True):
        np.testing.assert_array_equal(as_f32(one), as_f32(other))
    # The layout itself, by one number of each.
    page, slot, head, i = 2, 5, 1, 3
    keys, values = as_f32(pages[page, 0, head]), as_f32(pages[page, 1, head])
    assert keys[(i // pack * 16 + slot) * pack + i % pack] == as_f32(cache[0])[page, slot, head, i]
    assert (
        values[(slot // pack * 6 + i) * pack + slot % pack] == as_f32(cache[1])[page, slot, head, i]
    )


def test_a_size_or_dtype_that_the_kernel_has_not_is_refused() -> None:
    f32 = jnp.dtype("float32")
    with pytest.raises(ValueError, match=r"multiple of 16, got 24"):
        empty_pages(2, 24, 1, 8, f32)
    with pytest.raises(ValueError, match=r"even head dimension, got 7"):
        ops.empty_cache(2, 16, 1, 7, f32, backend=Backend.CPU)
    with pytest.raises(ValueError, match=r"float32 and bfloat16, and pages of int8 .*not float16"):
        empty_pages(2, 16, 1, 8, jnp.dtype("float16"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pages": (4, 2, 2, 16 * 16, "bfloat16")}, "the pages must have q's dtype, float32, but"),
        ({"pages": (4, 2, 2, 250, "float32")}, "pages of 2 x 250 numbers a head do not hold"),
        ({"pages": (4, 2, 2, 8 * 16, "float32")}, "multiple of 16, got 8"),
        ({"num_heads": 3}, r"q \(2, 3, 16\) does not go with k \(2, 2, 16\)"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"softcap": 0.0}, "softcap must be above 0, got 0.0"),
    ],
)
def test_what_does_not_fit_is_refused(changed: Options, message: str) -> None:
    changed = dict(changed)
    batch, _ = make_batch([(2, 2)], 16, 1)
    *shape, dtype = changed.pop("pages", (4, 2, 2, 16 * 16, "float32"))
    q, k = jnp.zeros((2, changed.pop("num_heads", 4), 16)), jnp.zeros((2, 2, 16))
    with pytest.raises(ValueError, match=message):
        paged_attention(q, k, k, jnp.zeros(shape, dtype), batch, **changed)
