"""The plan of the KV cache says what decided its size and the longest sequence."""

from __future__ import annotations

import pytest

from flaxen.engine.cache.plan import CachePlan, PoolReason, plan_cache
from flaxen.engine.cache.sizes import CacheSizes
from flaxen.models.cache import Full

SIZES = CacheSizes(
    specs=[Full(num_kv_heads=1, head_dim=8)] * 2, page_size=16, itemsize=2, chunk=32, max_num_seqs=4
)
PAGE = 2 * 16 * 2 * 8 * 2  # bytes, both layers


def plan(
    asked_len: int | None = None, asked_bytes: int | None = None, limit_bytes: int = 10**9
) -> CachePlan:
    return plan_cache(
        SIZES, 160, asked_len=asked_len, asked_bytes=asked_bytes, limit_bytes=limit_bytes
    )


def test_all_sequences_fit_at_full_length() -> None:
    made = plan()
    assert made.pool_reason is PoolReason.ALL_SEQUENCES
    assert (made.num_bytes, made.num_whole, made.num_tokens) == (40 * PAGE, 4, 640)
    assert (made.max_model_len, made.is_cut) == (160, False)


def test_the_limit_of_the_default_is_a_reason() -> None:
    made = plan(limit_bytes=25 * PAGE)
    assert made.pool_reason is PoolReason.DEFAULT_LIMIT
    assert (made.num_whole, made.num_tokens, made.is_cut) == (2.5, 400, False)


def test_a_small_cache_cuts_the_length_and_says_what_the_whole_needs() -> None:
    made = plan(asked_bytes=3 * PAGE)
    assert made.pool_reason is PoolReason.ASKED
    assert (made.max_model_len, made.model_len, made.is_cut) == (48, 160, True)
    assert made.whole_bytes == 10 * PAGE
    assert plan(asked_bytes=made.whole_bytes).max_model_len == 160


def test_a_length_that_was_asked_for_is_not_cut() -> None:
    made = plan(asked_len=32)
    assert (made.max_model_len, made.is_cut, made.num_whole) == (32, False, 4)


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller than one page"):
        plan(asked_bytes=1)
    with pytest.raises(ValueError, match="the model was made for 160 tokens: lower it"):
        plan(asked_len=161)
