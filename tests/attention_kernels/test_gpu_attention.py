"""The GPU's paged attention, interpreted: equal to the reference; a token's bits are its own."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.attention_kernels.paged_attention import empty_cache, reference
from flaxen.attention_kernels.paged_attention.gpu import paged_attention
from flaxen.attention_kernels.paged_attention.gpu_schedule import schedule
from flaxen.kernels.backend import Backend
from flaxen.kernels.paged_batch import PagedBatch
from tests.attention_kernels.paged_batches import (
    Lengths,
    jitted,
    make_batch,
    make_inputs,
    options_for,
)
from tests.kernels.arrays import as_f32
from tests.kernels.pairwise import pairwise

CASES: dict[str, tuple[Lengths, int, int]] = {  # and padded tokens and sequences
    "decodes": ([(1, 600), (1, 7), (1, 256), (1, 1)], 5, 5),
    "mixed": ([(5, 5), (1, 530), (40, 700), (2, 129)], 64, 8),
    "nothing": ([], 3, 3),
}
HEADS = [(9, 3, 64, 16), (4, 1, 128, 64), (8, 1, 80, 48), (2, 2, 96, 32), (3, 1, 256, 16)]
VARIANTS = {
    "fast": functools.partial(paged_attention, is_invariant=False),
    "invariant": functools.partial(paged_attention, is_invariant=True),
}


@pairwise(
    {
        "name": ["decodes", "mixed"],
        "N, K, H, page_size": HEADS,
        "options": ["plain", "chunk", "all"],
        "variant": VARIANTS,
        "dtype, page_dtype": [
            ("float32", "float32"),
            ("bfloat16", "bfloat16"),
            ("bfloat16", "float8_e4m3fn"),
        ],
    }
)
def test_equals_the_reference(
    name: str,
    N: int,
    K: int,
    H: int,
    page_size: int,
    options: str,
    variant: str,
    dtype: str,
    page_dtype: str,
) -> None:
    lengths, num_tokens, num_seqs = CASES[name]
    batch, num_pages = make_batch(lengths, page_size, num_seqs)
    q, k, v, cache = make_inputs(num_tokens, (N, K, H), num_pages, page_size, dtype)
    k = 300 * k if page_dtype == "float8_e4m3fn" else k  # beyond the largest float8
    pages = jax.tree.map(lambda each: each.astype(page_dtype), cache)
    given = options_for(options, N)
    got, got_pages = jitted(VARIANTS[variant])(q, k, v, pages, batch, **given)
    wide = jax.tree.map(lambda each: each.astype(jnp.float32), (q, k, v))
    expected, expected_pages = jitted(reference.paged_attention)(*wide, pages, batch, **given)
    num_new = sum(new for new, _ in lengths)
    # In bfloat16 the weights are rounded before they multiply the values.
    atol = 2e-6 if dtype == "float32" else 2e-2
    assert got.dtype == q.dtype
    np.testing.assert_allclose(as_f32(got)[:num_new], as_f32(expected)[:num_new], atol=atol, rtol=0)
    assert not as_f32(got)[num_new:].any()  # padding
    for one, other in zip(as_f32(got_pages), as_f32(expected_pages), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_step_without_tokens_changes_nothing() -> None:
    lengths, num_tokens, num_seqs = CASES["nothing"]
    batch, num_pages = make_batch(lengths, 16, num_seqs)
    *inputs, cache = make_inputs(num_tokens, (4, 2, 64), num_pages, 16, "float32")
    got, pages = jitted(VARIANTS["fast"])(*inputs, cache, batch)
    assert not as_f32(got).any()
    jax.tree.map(np.testing.assert_array_equal, pages, cache)


@pytest.mark.parametrize(("name", "variant"), [("decodes", "fast"), ("mixed", "invariant")])
def test_nan_left_in_other_slots_is_never_seen(name: str, variant: str) -> None:
    lengths, num_tokens, num_seqs = CASES[name]
    batch, num_pages = make_batch(lengths, 16, num_seqs)
    *inputs, cache = make_inputs(num_tokens, (4, 2, 64), num_pages, 16, "float32")
    seen = np.zeros((num_pages, 16), bool)
    window = 50  # what lies before it may be another sequence's page by now
    for row, (new, total) in enumerate(lengths):
        for position in range(max(0, total - new - window + 1), total):
            seen[int(batch.page_table[row, position // 16]), position % 16] = True
    poisoned = jax.tree.map(lambda x: jnp.where(seen[:, :, None, None], x, jnp.nan), cache)
    attend = jitted(VARIANTS[variant])
    clean, _ = attend(*inputs, cache, batch, window=window)
    got, _ = attend(*inputs, poisoned, batch, window=window)
    np.testing.assert_array_equal(got, clean)


HISTORY = 560  # tokens: two splits of the invariant variant


def run(
    lengths: Lengths, num_tokens: int, num_seqs: int, tokens: Any, cache: Any, row: int = 0
) -> tuple[np.ndarray, Any]:
    """Computes a step of which one row is the sequence whose q, k, v are given; its result."""
    batch, _ = make_batch(lengths, 16, num_seqs)
    # The sequence's pages are the first of the pool, and its table is as wide in every step.
    table = np.full((num_seqs, 80), 10**9, np.int32)
    used = 70
    for each, (_, total) in enumerate(lengths):
        count = -(-total // 16)
        start = 0 if each == row else used
        table[each, :count] = np.arange(start, start + count)
        used += 0 if each == row else count
    batch = PagedBatch(batch.kv_lens, jnp.asarray(table), batch.cu_q_lens)
    others = make_inputs(num_tokens, (4, 1, 64), 1, 16, "float32")[:3]
    begin = sum(new for new, _ in lengths[:row])
    count = lengths[row][0]
    inputs = [x.at[begin : begin + count].set(y) for x, y in zip(others, tokens, strict=True)]
    out, cache = jitted(VARIANTS["invariant"])(*inputs, cache, batch, sinks=jnp.ones(4))
    return np.asarray(out)[begin : begin + count], cache


def test_batched_is_alone_and_chunked_is_whole_to_the_bit() -> None:
    whole = make_inputs(HISTORY, (4, 1, 64), 160, 16, "float32")
    tokens, empty = whole[:3], whole[3]

    def part(first: int, last: int) -> list[jax.Array]:
        return [each[first:last] for each in tokens]

    expected, filled = run([(HISTORY, HISTORY)], HISTORY, 4, part(0, HISTORY), empty)
    # The last token as a decoding step: alone, in the smallest shape, and in a batch.
    decoded, _ = run([(1, HISTORY)], 1, 1, part(HISTORY - 1, HISTORY), filled)
    np.testing.assert_array_equal(decoded, expected[-1:])
    beside: Lengths = [(1, 90), (3, 100), (1, HISTORY), (7, 7)]
    decoded, _ = run(beside, 16, 5, part(HISTORY - 1, HISTORY), filled, row=2)
    np.testing.assert_array_equal(decoded, expected[-1:])
    # The prompt in chunks, the second beside others.
    first, cache = run([(300, 300)], 300, 4, part(0, 300), empty)
    second, _ = run([(9, 40), (260, HISTORY)], 270, 4, part(300, HISTORY), cache, row=1)
    np.testing.assert_array_equal(np.concatenate([first, second]), expected)


def plan(num_tokens: int, num_seqs: int, max_len: int, is_invariant: bool, **other: Any) -> Any:
    given = {"num_heads": (32, 8), "head_dim": 128, "window": None, **other}
    return schedule(
        num_tokens=num_tokens,
        num_seqs=num_seqs,
        max_len=max_len,
        is_invariant=is_invariant,
        **given,
    )


@pytest.mark.parametrize("num_seqs", [1, 16, 64, 256])
def test_decode_can_use_every_multiprocessor(num_seqs: int) -> None:
    found = plan(num_seqs, num_seqs, 32768, False)
    assert found.num_tiles * 8 * found.programs >= 1024


def test_the_invariant_variant_has_one_tile_and_one_split_for_every_shape() -> None:
    shapes = [(1, 1), (16, 16), (64, 64), (512, 64), (4096, 256), (256, 256)]
    found = [plan(*shape, 131072, True) for shape in shapes]
    assert len({(each.rows, each.split) for each in found}) == 1


@pytest.mark.parametrize("is_invariant", [False, True])
def test_splits_leave_a_bounded_amount_to_be_merged(is_invariant: bool) -> None:
    for num_seqs in (1, 16, 64, 256):
        found = plan(num_seqs, num_seqs, 2**20, is_invariant)
        if found.programs > 1:
            assert num_seqs * 32 * found.num_splits * 130 * 4 <= 128 * 2**20


def test_a_window_bounds_the_splits() -> None:
    assert plan(16, 16, 131072, False, window=1024).num_splits == 5


def test_heads_that_the_kernels_do_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match=r"heads of at most 256 .* got heads of 512 in bfloat16"):
        empty_cache(4, 16, 1, 512, jnp.dtype(jnp.bfloat16), backend=Backend.GPU)
