"""The plan of the KV cache says what decided its size and the longest sequence."""

from __future__ import annotations

import functools

import pytest

from flaxen.memory.cache_plan import CachePlan, PoolReason, plan_cache
from flaxen.models.cache import CacheSpec, Full, Latent, Sliding, State
from flaxen.scheduling.cache.sizes import CacheSizes

SIZES = CacheSizes(
    specs=[Full(num_kv_heads=1, head_dim=8)] * 2, page_size=16, itemsize=2, chunk=32, max_num_seqs=4
)
PAGE = 2 * 16 * 2 * 8 * 2  # bytes, both layers


def plan(
    asked_len: int | None = None,
    asked_bytes: int | None = None,
    free_bytes: int | None = 10**9,
    model_len: int = 160,
) -> CachePlan:
    return plan_cache(
        SIZES, model_len, asked_len=asked_len, asked_bytes=asked_bytes, free_bytes=free_bytes
    )


def test_all_sequences_fit_at_full_length() -> None:
    made = plan()
    assert made.pool_reason is PoolReason.ALL_SEQUENCES
    assert (made.num_bytes, made.num_whole, made.num_tokens) == (40 * PAGE, 4, 640)
    assert (made.max_model_len, made.is_cut) == (160, False)


def test_half_of_the_free_memory_is_the_most_that_is_taken_unasked() -> None:
    made = plan(free_bytes=50 * PAGE)
    assert made.pool_reason is PoolReason.FREE_MEMORY
    assert (made.num_whole, made.num_tokens, made.is_cut) == (2.5, 400, False)
    made = plan(free_bytes=6 * PAGE)
    assert (made.max_model_len, made.is_cut) == (48, True)
    assert plan(asked_bytes=40 * PAGE, free_bytes=0).pool_reason is PoolReason.ASKED
    assert plan(free_bytes=None).pool_reason is PoolReason.ALL_SEQUENCES


def test_a_long_context_has_room_for_all_sequences_at_a_typical_length() -> None:
    made = plan(model_len=1600)
    assert made.pool_reason is PoolReason.TYPICAL
    assert (made.num_bytes, made.max_model_len) == (4 * 512 // 16 * PAGE, 1600)


def test_one_sequence_of_full_length_fits_if_there_is_memory() -> None:
    made = plan(model_len=16_000)
    assert made.pool_reason is PoolReason.TYPICAL
    assert (made.num_whole, made.is_cut) == (1, False)


def test_a_machine_without_memory_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"0\.0 MiB of memory free beside the weights.*End other"):
        plan(free_bytes=-5)
    with pytest.raises(
        ValueError,
        match=r"of 160 tokens needs.*: the longest that fits has 48 tokens.*--kv-cache-size",
    ):
        plan(asked_len=160, free_bytes=6 * PAGE)


GROUPS: dict[str, list[CacheSpec]] = {
    "full": [Full(num_kv_heads=2, head_dim=8)] * 3,
    "sliding": [Sliding(num_kv_heads=2, head_dim=8, window=40)] * 3,
    "latent": [Latent(rank=12, rope_dim=4)] * 3,
    "state": [State(shapes=((4, 8), (3,)))] * 3,
    "sliding and full": [
        Sliding(num_kv_heads=2, head_dim=8, window=40), Full(num_kv_heads=1, head_dim=8),
    ],
    "state and full": [State(shapes=((4, 8), (3,))), Full(num_kv_heads=1, head_dim=8)],
    "state and latent": [State(shapes=((4, 8),)), Latent(rank=12, rope_dim=4)],
}  # fmt: skip


@pytest.mark.parametrize("specs", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("itemsize", [1, 2])
def test_the_length_that_a_refusal_names_fits_and_a_page_more_does_not(
    specs: list[CacheSpec], itemsize: int
) -> None:
    sizes = CacheSizes(specs=specs, page_size=16, itemsize=itemsize, chunk=32, max_num_seqs=4)
    for budget in {sizes.least_bytes(length) for length in (48, 80, 112)}:
        planned = functools.partial(
            plan_cache, sizes, 10_000, asked_bytes=None, budget_bytes=budget
        )

        fits_all = sizes.least_bytes(10_000) <= budget  # windows and states end to grow
        cut = planned(asked_len=None)
        assert (cut.max_model_len == 10_000) is fits_all
        if not fits_all:
            longest = cut.max_model_len
            assert planned(asked_len=longest).max_model_len == longest
            with pytest.raises(ValueError, match=f"the longest that fits has {longest} tokens"):
                planned(asked_len=longest + 1)
        groups = cut.groups
        assert (
            sum(
                group.num_pages * _page_bytes(group.spec, len(group.layers), itemsize)
                for group in groups
            )
            <= budget
        )


def _page_bytes(spec: CacheSpec, num_layers: int, itemsize: int) -> int:
    if isinstance(spec, State):
        return num_layers * spec.bytes_per_sequence
    return num_layers * 16 * spec.bytes_per_token(itemsize)


def test_states_that_do_not_fit_ask_for_fewer_sequences() -> None:
    sizes = CacheSizes(
        specs=[State(shapes=((4, 8),))], page_size=16, itemsize=2, chunk=32, max_num_seqs=4
    )
    text = (
        r"one sequence of 1 tokens needs 0\.0 MiB with the states of 4 sequences \(max_num_seqs\)"
    )
    with pytest.raises(ValueError, match=text):
        plan_cache(sizes, 100, asked_len=None, asked_bytes=None, budget_bytes=3 * 64)


def test_a_budget_is_all_for_the_cache_and_a_larger_size_is_refused() -> None:
    def planned(asked_bytes: int | None, budget_bytes: int) -> CachePlan:
        return plan_cache(
            SIZES, 160, asked_len=None, asked_bytes=asked_bytes, budget_bytes=budget_bytes
        )

    made = planned(None, 20 * PAGE)
    assert (made.pool_reason, made.num_bytes) == (PoolReason.BUDGET, 20 * PAGE)
    assert planned(None, 10**9).pool_reason is PoolReason.ALL_SEQUENCES
    assert planned(20 * PAGE, 20 * PAGE).pool_reason is PoolReason.ASKED
    with pytest.raises(ValueError, match=r"asked for, and the memory for models leaves 0\.0 MiB"):
        planned(21 * PAGE, 20 * PAGE)
    text = r"models leaves 0\.0 MiB for the KV cache of this one, and one .* Raise --models-memory"
    with pytest.raises(ValueError, match=text):
        planned(None, -5)


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
