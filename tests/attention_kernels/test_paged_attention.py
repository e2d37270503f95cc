"""Blocked = reference, over a product of shapes; and what the pages may hold does not matter."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.attention_kernels.paged_attention import KvPages, blocked, reference
from flaxen.kernels.paged_batch import PagedBatch

Case = tuple[list[int], list[int], int, int]  # q_lens, kv_lens, padded tokens, padded sequences

CASES: dict[str, Case] = {
    "one decode": ([1], [1], 1, 1),
    "decodes": ([1] * 5, [7, 130, 1, 200, 64], 16, 8),
    "mixed, small": ([5, 1, 8], [5, 130, 140], 16, 8),
    "full row": ([4, 4], [4, 300], 8, 2),
    "prefill in blocks": ([100, 1, 30, 60], [200, 130, 30, 255], 256, 16),
    "many groups": ([1] * 30 + [90], [33] * 30 + [90], 128, 32),
    "nothing": ([], [], 4, 4),
}
PAGE_SIZE, NUM_PAGES, NUM_TABLE = 16, 160, 20


def make_batch(case: Case, seed: int = 0) -> PagedBatch:
    q_lens, kv_lens, _, num_seqs = case
    shuffled = np.random.default_rng(seed).permutation(NUM_PAGES)
    table = np.zeros((num_seqs, NUM_TABLE), np.int32)
    used = 0
    for line, kv_len in enumerate(kv_lens):
        num = -(-kv_len // PAGE_SIZE)
        table[line, :num] = shuffled[used : used + num]
        used += num
    padding = num_seqs - len(q_lens)
    cu_q_lens = np.cumsum([0, *q_lens, *[0] * padding])
    return PagedBatch(
        jnp.asarray([*kv_lens, *[0] * padding], jnp.int32),
        jnp.asarray(table),
        jnp.asarray(cu_q_lens, jnp.int32),
    )


def make_inputs(
    case: Case, num_heads: int, num_kv_heads: int, head_dim: int
) -> tuple[jax.Array, jax.Array, jax.Array, KvPages]:
    rng = np.random.default_rng(1)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    pages = (NUM_PAGES, PAGE_SIZE, num_kv_heads, head_dim)
    return (
        normal(case[2], num_heads, head_dim),
        normal(case[2], num_kv_heads, head_dim),
        normal(case[2], num_kv_heads, head_dim),
        KvPages(normal(*pages), normal(*pages)),
    )


@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim"), [(9, 3, 64), (2, 2, 16)])
@pytest.mark.parametrize("name", CASES)
def test_blocked_equals_reference(
    name: str, num_heads: int, num_kv_heads: int, head_dim: int, window: int | None
) -> None:
    case = CASES[name]
    batch = make_batch(case)
    inputs = make_inputs(case, num_heads, num_kv_heads, head_dim)
    expected, expected_cache = jax.jit(reference.paged_attention, static_argnames="window")(
        *inputs, batch, window=window
    )
    got, got_cache = jax.jit(blocked.paged_attention, static_argnames="window")(
        *inputs, batch, window=window
    )
    num_tokens = sum(case[0])
    np.testing.assert_allclose(got[:num_tokens], expected[:num_tokens], rtol=0, atol=2e-6)
    assert jnp.isfinite(got).all()
    for one, other in zip(got_cache, expected_cache, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_window_of_one_sees_only_the_token_itself() -> None:
    case = CASES["mixed, small"]
    q, k, v, cache = make_inputs(case, 4, 2, 16)
    out, _ = blocked.paged_attention(q, k, v, cache, make_batch(case), window=1)
    num_tokens = sum(case[0])
    np.testing.assert_array_equal(out[:num_tokens], jnp.repeat(v, 2, axis=1)[:num_tokens])


def test_only_the_new_tokens_slots_are_written() -> None:
    case = CASES["mixed, small"]
    batch = make_batch(case)
    q, k, v, cache = make_inputs(case, 2, 2, 16)
    _, pages = blocked.paged_attention(q, k, v, cache, batch)
    k_pages = pages.keys
    changed = np.argwhere((np.asarray(k_pages) != np.asarray(cache[0])).any(axis=(2, 3)))
    expected, token = {}, 0
    for line, (q_len, kv_len) in enumerate(zip(case[0], case[1], strict=True)):
        for position in range(kv_len - q_len, kv_len):
            page = int(batch.page_table[line, position // PAGE_SIZE])
            expected[page, position % PAGE_SIZE] = token
            token += 1
    assert {(int(p), int(s)) for p, s in changed} == set(expected)
    for (page, slot), index in expected.items():
        np.testing.assert_array_equal(k_pages[page, slot], k[index])


@pytest.mark.parametrize("name", ["decodes", "prefill in blocks"])
def test_nan_left_in_other_slots_is_never_seen(name: str) -> None:
    case = CASES[name]
    batch = make_batch(case)
    q, k, v, cache = make_inputs(case, 4, 2, 16)
    seen = np.zeros((NUM_PAGES, PAGE_SIZE), bool)
    for line, kv_len in enumerate(case[1]):
        for position in range(kv_len):
            seen[int(batch.page_table[line, position // PAGE_SIZE]), position % PAGE_SIZE] = True
    poisoned = jax.tree.map(lambda x: jnp.where(seen[:, :, None, None], x, jnp.nan), cache)
    clean, _ = blocked.paged_attention(q, k, v, cache, batch)
    got, _ = blocked.paged_attention(q, k, v, poisoned, batch)
    num_tokens = sum(case[0])
    np.testing.assert_array_equal(got[:num_tokens], clean[:num_tokens])


def test_page_size_must_divide_the_key_block() -> None:
    q = jnp.zeros((1, 2, 16))
    pages = jnp.zeros((4, 48, 2, 16))
    batch = PagedBatch(
        jnp.ones(1, jnp.int32), jnp.zeros((1, 2), jnp.int32), jnp.asarray([0, 1], jnp.int32)
    )
    with pytest.raises(ValueError, match="page size must divide 128, got 48"):
        blocked.paged_attention(q, q, q, KvPages(pages, pages), batch)
