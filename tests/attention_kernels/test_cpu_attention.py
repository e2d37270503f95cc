"""The C++ paged attention = the reference; a token's bits are its own; NaN."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.attention_kernels.paged_attention import blocked, reference
from flaxen.attention_kernels.paged_attention.cpu import paged_attention
from flaxen.attention_kernels.paged_attention.cpu_pages import (
    empty_pages,
    from_reference,
    to_reference,
)
from flaxen.kernels import cpu_library
from flaxen.kernels.paged_batch import PagedBatch
from tests.attention_kernels.paged_batches import (
    CASES,
    HEADS,
    OPTIONS,
    Lengths,
    Options,
    jitted,
    make_batch,
    make_inputs,
    options_for,
)
from tests.kernels.arrays import as_f32, normal
from tests.kernels.pairwise import ISAS, THREADS, pairwise


def check_against_reference(
    name: str, heads: tuple[int, int, int], page_size: int, dtype: str, options: Options
) -> None:
    lengths, num_tokens, num_seqs = CASES[name]
    batch, num_pages = make_batch(lengths, page_size, num_seqs)
    q, k, v, cache = make_inputs(num_tokens, heads, num_pages, page_size, dtype)
    found, pages = jitted(paged_attention)(q, k, v, from_reference(cache), batch, **options)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (q, k, v, cache))
    expected, expected_cache = jitted(reference.paged_attention)(*wide, batch, **options)
    assert found.dtype == q.dtype
    # Only the result is rounded: half a unit in the last of bfloat16's 8 digits.
    rtol = 1e-5 if dtype == "float32" else 2.0**-8
    np.testing.assert_allclose(as_f32(found), as_f32(expected), rtol=rtol, atol=2e-6)
    written = as_f32(to_reference(pages, heads[2]))
    for one, other in zip(written, as_f32(expected_cache), strict=True):
        np.testing.assert_array_equal(one, other)
    num_new = sum(q_len for q_len, _ in lengths)
    assert not as_f32(found)[num_new:].any()  # padding


@pairwise(
    {
        "isa": ISAS,
        "N, K, H, page_size": HEADS,
        "options": OPTIONS,
        "dtype": ["float32", "bfloat16"],
    }
)
def test_equals_the_reference(
    isa: str, N: int, K: int, H: int, page_size: int, options: str, dtype: str
) -> None:
    check_against_reference("mixed", (N, K, H), page_size, dtype, options_for(options, N))


@pairwise({"isa": ISAS, "name": CASES, "page_size": [16, 64], "dtype": ["float32", "bfloat16"]})
def test_equals_the_reference_whatever_the_batch(
    isa: str, name: str, page_size: int, dtype: str
) -> None:
    check_against_reference(name, (6, 2, 32), page_size, dtype, {})


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ["decodes", "mixed"])
def test_blocked_has_the_same_options(name: str, options: str) -> None:
    lengths, num_tokens, num_seqs = CASES[name]
    batch, num_pages = make_batch(lengths, 16, num_seqs)
    inputs = make_inputs(num_tokens, (4, 2, 16), num_pages, 16, "float32")
    chosen = options_for(options, 4)
    found, _ = jitted(blocked.paged_attention)(*inputs, batch, **chosen)
    expected, _ = jitted(reference.paged_attention)(*inputs, batch, **chosen)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)


LENGTH = 700


def run_whole(
    sizes: list[int],
    *,
    heads: tuple[int, int, int] = (6, 2, 24),
    dtype: str = "float32",
    page_size: int = 16,
    neighbours: int = 0,
    **options: Any,
) -> bytes:
    """A sequence of sum(sizes) tokens computed in chunks of these sizes, beside other sequences."""
    N, K, H = heads
    q, k, v = (
        normal(n, LENGTH, heads, H, dtype=dtype) for n, heads in zip("qkv", (N, K, K), strict=True)
    )
    others = [(1 + i % 3, 40 + 37 * i) for i in range(neighbours)]
    _, num_pages = make_batch([(0, sum(sizes)), *others], page_size, neighbours + 1)
    # Every slot that was never written is NaN, but for the neighbours' own.
    pages = jnp.full(
        empty_pages(num_pages, page_size, K, H, jnp.dtype(dtype)).shape, jnp.nan, dtype
    )
    outs, done = [], 0
    for size in sizes:
        lengths = [(size, done + size), *others]
        batch, _ = make_batch(
            [(0, sum(sizes)), *others], page_size, neighbours + 1, seed=neighbours
        )
        batch = PagedBatch(
            jnp.asarray([kv_len for _, kv_len in lengths], jnp.int32),
            batch.page_table,
            jnp.asarray(np.cumsum([0, *(q_len for q_len, _ in lengths)]), jnp.int32),
        )
        extra = sum(q_len for q_len, _ in others)

        def with_others(
            x: jax.Array, done: int = done, size: int = size, extra: int = extra
        ) -> Any:
            return jnp.concatenate([x[done : done + size], x[:extra]])

        out, pages = jitted(paged_attention)(
            with_others(q), with_others(k), with_others(v), pages, batch, **options
        )
        outs.append(np.asarray(out[:size]))
        done += size
    return np.concatenate(outs).tobytes()


@pairwise(
    {
        "isa": ISAS,
        "num_threads": THREADS,
        "heads, dtype": [
            ((6, 2, 24), "float32"),
            ((6, 2, 24), "bfloat16"),
            ((8, 1, 64), "bfloat16"),
        ],
        "options": OPTIONS,
    }
)
def test_a_tokens_bits_are_its_own_sequences(
    isa: str, num_threads: int, heads: tuple[int, int, int], dtype: str, options: str
) -> None:
    """Whatever the chunks, the pages, the neighbours and the threads."""
    same: dict[str, Any] = {"heads": heads, "dtype": dtype, **options_for(options, heads[0])}
    sizes = [300, 1, 1, 5, 90, 1, 2, 17]
    cpu_library.start(num_threads=1)
    whole = run_whole([sum(sizes)], **same)
    cpu_library.start(num_threads=num_threads)
    assert run_whole([sum(sizes)], **same) == whole
    assert run_whole(sizes, **same) == whole
    assert run_whole([*sizes[::-1]], page_size=48, **same) == whole
    assert run_whole(sizes, page_size=128, neighbours=20, **same) == whole
    assert b"\x00" * 64 not in whole


@pairwise({"isa": ISAS, "num_threads": THREADS, "dtype": ["float32", "bfloat16"]})
def test_threads_share_one_long_sequence(isa: str, num_threads: int, dtype: str) -> None:
    """The key blocks of a row are split among them only if there is nothing else to do."""
    kv_len = 3000
    num_pages = -(-kv_len // 64)
    pages = normal("pages", num_pages, 2, 1, 64 * 32, dtype=dtype)
    outs = []
    for num_seqs in (1, 40):  # all the same sequence
        q, k, v = (
            jnp.tile(normal(name, 1, heads, 32, dtype=dtype), (num_seqs, 1, 1))
            for name, heads in (("q", 4), ("k", 1), ("v", 1))
        )
        batch = PagedBatch(
            jnp.full(num_seqs, kv_len, jnp.int32),
            jnp.tile(jnp.arange(num_pages, dtype=jnp.int32)[None], (num_seqs, 1)),
            jnp.arange(num_seqs + 1, dtype=jnp.int32),
        )
        outs.append(np.asarray(paged_attention(q, k, v, pages, batch)[0]))
    assert {row.tobytes() for row in outs[1]} == {outs[0][0].tobytes()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("window", [None, 20])
def test_nan_in_a_key_or_value_reaches_only_those_who_see_it(
    isa: str, window: int | None, dtype: str
) -> None:
    lengths: Lengths = [(60, 190), (1, 150)]
    batch, num_pages = make_batch(lengths, 16, 2)
    q, k, v, cache = make_inputs(61, (4, 2, 16), num_pages, 16, dtype)
    clean, _ = paged_attention(q, k, v, from_reference(cache), batch, window=window)
    poisoned = 33  # of the first sequence's new tokens
    for name in ("k", "v"):
        new = {"k": k, "v": v}
        new[name] = new[name].at[poisoned, :, 3].set(jnp.nan)
        out, _ = paged_attention(q, new["k"], new["v"], from_reference(cache), batch, window=window)
        found = as_f32(out)
        sees = np.arange(61) >= poisoned
        sees &= np.arange(61) < min(60, poisoned + (window or 1000))
        assert np.isnan(found[sees]).any(axis=-1).all()
        np.testing.assert_array_equal(found[~sees], as_f32(clean)[~sees])


def test_nan_in_a_query_stays_in_its_head(isa: str) -> None:
    batch, num_pages = make_batch([(7, 40)], 16, 1)
    q, k, v, cache = make_inputs(7, (6, 2, 16), num_pages, 16, "float32")
    pages = from_reference(cache)
    found = as_f32(paged_attention(q.at[2, 4, 1].set(jnp.nan), k, v, pages, batch)[0])
    expected = as_f32(paged_attention(q, k, v, pages, batch)[0])
    others = np.ones((7, 6), bool)
    others[2, 4] = False
    assert np.isnan(found[2, 4]).all()
    np.testing.assert_array_equal(found[others], expected[others])


@pytest.mark.parametrize("scale", [100.0, 1e4])
def test_large_scores_do_not_overflow(isa: str, scale: float) -> None:
    batch, num_pages = make_batch([(3, 300)], 16, 1)
    q, k, v, cache = make_inputs(3, (2, 1, 32), num_pages, 16, "float32")
    found, _ = paged_attention(q, k, v, from_reference(cache), batch, scale=scale)
    # The error of a score of some 10^4 is far above that of the sums.
    expected, _ = reference.paged_attention(q, k, v, cache, batch, scale=scale)
    np.testing.assert_allclose(found, expected, rtol=0, atol=scale * 1e-5)
    assert np.isfinite(found).all()


def test_a_sink_takes_its_share(isa: str) -> None:
    """With one key of score 0 and a sink of log 3, the value gets a quarter of the weight."""
    batch, num_pages = make_batch([(1, 1)], 16, 1)
    _, k, v, cache = make_inputs(1, (2, 2, 16), num_pages, 16, "float32")
    sinks = jnp.asarray([np.log(3), -jnp.inf], jnp.float32)
    out, _ = paged_attention(jnp.zeros((1, 2, 16)), k, v, from_reference(cache), batch, sinks=sinks)
    np.testing.assert_allclose(out[0, 0], v[0, 0] / 4, rtol=1e-6)
    np.testing.assert_array_equal(out[0, 1], v[0, 1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pages_are_written_in_place(isa: str, dtype: str) -> None:
    batch, num_pages = make_batch([(5, 20)], 16, 1)
    q, k, v, cache = make_inputs(5, (2, 1, 16), num_pages, 16, dtype)
    step = jax.jit(paged_attention, donate_argnums=3)
    pages = from_reference(cache)
    for _ in range(2):  # the first may move what was not made by the same program
        before = pages.unsafe_buffer_pointer()
        _, pages = step(q, k, v, pages, batch)
    assert pages.unsafe_buffer_pointer() == before
