"""What each kind of cache needs, where prefixes are found, and how memory is divided, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxen.models.cache import CacheSpec, Full, Latent, Sliding, State, attention_cache
from flaxen.protocol import SamplingParams
from flaxen.scheduling.cache.groups import first_page, group_layers, most_pages, page_bytes
from flaxen.scheduling.cache.pools import Pools
from flaxen.scheduling.cache.sizes import CacheSizes
from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.sequence import NO_PAGE, Sequence
from tests.scheduling.groups import FULL, groups

SLIDING = Sliding(num_kv_heads=1, head_dim=2, window=6)
LATENT, STATE = Latent(rank=4, rope_dim=2), State(shapes=((2, 3),))


def pools_of(*specs: CacheSpec, num_pages: int = 16, chunk: int = 8) -> Pools:
    return Pools(
        EngineConfig(
            max_model_len=32, groups=groups(specs, num_pages), page_size=4, max_num_seqs=4,
            max_num_batched_tokens=chunk,
        )
    )  # fmt: skip


def sequence(num_tokens: int) -> Sequence:
    return Sequence(
        request_id="r", index=0, sampling=SamplingParams(), tokens=list(range(num_tokens)),
        num_prompt_tokens=num_tokens,
    )  # fmt: skip


def compute(pools: Pools, each: Sequence, *ends: int) -> None:
    for end in ends:
        assert pools.grow(each, end)
        each.num_computed_tokens = end
        pools.register(each)


def test_layers_with_equal_specs_share_a_group() -> None:
    assert group_layers([SLIDING, FULL, SLIDING, FULL, replace(SLIDING, window=5)]) == {
        SLIDING: (0, 2),
        FULL: (1, 3),
        replace(SLIDING, window=5): (4,),
    }


@pytest.mark.parametrize(
    ("spec", "num_tokens", "expected"),
    [
        (FULL, 9, 3),
        (LATENT, 8, 2),
        (STATE, 1000, 1),
        (SLIDING, 9, 3),
        (SLIDING, 1000, 4),  # 5 tokens before a chunk of 8, which begin in the middle of a page
    ],
)
def test_the_most_pages_of_a_sequence(spec: CacheSpec, num_tokens: int, expected: int) -> None:
    assert most_pages(spec, num_tokens, chunk=8, page_size=4) == expected


def test_pages_behind_a_window_are_freed_and_found_again() -> None:
    pools = pools_of(FULL, SLIDING)
    each = sequence(24)
    assert pools.admit(each, 0, 0)
    assert [len(pages) for pages in each.pages] == [6, 0]  # with a window: for the chunk alone
    compute(pools, each, 8, 16, 24)
    full, sliding = each.pages
    assert NO_PAGE not in full
    assert [page == NO_PAGE for page in sliding] == [True, True, False, False, False, False]
    assert pools.grow(each, 25)  # the token at 24 sees the positions from 19 on
    assert [page == NO_PAGE for page in sliding] == [True] * 4 + [False] * 3
    pools.release(each)
    assert pools.num_used == 0
    # Nothing has taken the freed pages since: each of them still holds its tokens.
    assert [pools.found.num_cached(sequence(25), limit) for limit in (6, 3, 0)] == [6, 3, 0]


def test_a_prefix_is_found_where_all_groups_can_go_on() -> None:
    """All pages of the sliding group were reused except the last three."""
    pools = pools_of(FULL, SLIDING, num_pages=8)
    each = sequence(24)
    assert pools.admit(each, 0, 0)
    compute(pools, each, 8, 16, 24)
    pools.release(each)
    sliding = pools.pools[1]
    taken = sliding.allocate(sliding.num_free - 3)
    sliding.release(taken)
    found = [i for i in range(6) if sliding.holds(each.page_hashes[i])]
    after = {limit: pools.found.num_cached(sequence(25), limit) for limit in range(7)}
    for limit, num in after.items():
        seen = range(max(0, num * 4 - 5) // 4, num)  # what the next token sees
        assert set(seen) <= set(found)
        assert all(not set(range(max(0, more * 4 - 5) // 4, more)) <= set(found)
                   for more in range(num + 1, limit + 1))  # fmt: skip
    assert 0 < max(after.values()) < 7


@given(
    kept=st.lists(
        st.tuples(st.none() | st.integers(1, 30), st.sets(st.integers(0, 7))),
        min_size=1,
        max_size=4,
        unique_by=lambda each: each[0],
    ),
    limit=st.integers(0, 8),
)
def test_no_longer_prefix_would_do(kept: list[tuple[int | None, set[int]]], limit: int) -> None:
    """Whatever each group has kept: the longest prefix whose end all of them can go on from."""
    specs = [attention_cache(1, 2, window) for window, _ in kept]
    pools = pools_of(*specs)
    each = sequence(32)
    pools.found.num_cached(each, 0)  # names its pages
    for pool, (_, held) in zip(pools.pools, kept, strict=True):
        pages = pool.allocate(len(held))
        pool.register(pages, [each.page_hashes[i] for i in sorted(held)])
    fits = [
        num for num in range(limit + 1)
        if all(set(range(first_page(window, 4 * num, 4), num)) <= held for window, held in kept)
    ]  # fmt: skip
    assert pools.found.num_cached(each, limit) == max(fits)


def test_beside_a_state_no_prefix_is_found() -> None:
    pools = pools_of(FULL, STATE)
    each = sequence(12)
    assert pools.admit(each, 0, 0)
    compute(pools, each, 8, 12)
    assert [len(pages) for pages in each.pages] == [3, 1]
    assert pools.found.num_cached(sequence(13), 3) == 0
    assert not pools.can_roll_back
    with pytest.raises(AssertionError, match="a State can't go back to an earlier token"):
        pools.roll_back(each, 11)


def test_usage_is_that_of_bytes() -> None:
    pools = pools_of(FULL, STATE, num_pages=8)  # pages of 16 numbers, and of 6 twice as wide
    assert pools.admit(sequence(9), 0, 0)
    assert pools.usage == (3 * 16 + 12) / (8 * (16 + 12))


def test_all_groups_or_none_give_pages() -> None:
    pools = pools_of(FULL, SLIDING, num_pages=8)
    taken = pools.pools[1].allocate(5)
    assert not pools.admit(sequence(24), 0, 0)
    assert pools.num_used == 5
    pools.pools[1].release(taken[:2])
    assert pools.admit(sequence(24), 0, 0)


def sizes(*specs: CacheSpec) -> CacheSizes:
    return CacheSizes(specs=specs, page_size=16, itemsize=2, chunk=512, max_num_seqs=8)


K, H = 8, 128
BYTES = 2 * K * H * 2 * 16  # of a page in one layer
ALL = Full(num_kv_heads=K, head_dim=H)
WINDOW = Sliding(num_kv_heads=K, head_dim=H, window=4096)


def test_one_group_takes_all_the_memory() -> None:
    [group] = sizes(ALL, ALL).divide(1000 * 2 * BYTES + 5, 4096)
    assert (group.spec, group.layers, group.num_pages) == (ALL, (0, 1), 1000)


def test_neither_short_nor_long_sequences_find_much_less_than_could_be() -> None:
    num_bytes = 6000 * BYTES
    full, sliding = sizes(ALL, WINDOW).divide(num_bytes, 32_768)
    assert num_bytes - 2 * BYTES < (full.num_pages + sliding.num_pages) * BYTES <= num_bytes
    for length in (100, 4096, 4608, 10_000, 32_768):
        each = [most_pages(spec, length, 512, 16) for spec in (ALL, WINDOW)]
        at_best = 6000 / sum(each)
        found = min(full.num_pages / each[0], sliding.num_pages / each[1])
        assert found > 0.7 * at_best


@given(
    specs=st.lists(
        st.just(ALL)
        | st.just(State(shapes=((8, 8),)))
        | st.builds(
            Sliding,
            num_kv_heads=st.integers(1, 4),
            head_dim=st.just(64),
            window=st.integers(1, 9000),
        ),
        min_size=1,
        max_size=5,
    ),
    num_more=st.integers(0, 10**12),
    max_model_len=st.integers(1, 40_000),
)
def test_the_memory_is_used_and_each_sequence_can_run(
    specs: list[CacheSpec], num_more: int, max_model_len: int
) -> None:
    mixed = sizes(*specs)
    num_bytes = mixed.least_bytes(max_model_len) + num_more
    divided = mixed.divide(num_bytes, max_model_len)
    used = 0
    for group in divided:
        is_state = isinstance(group.spec, State)
        one = 8 if is_state else most_pages(group.spec, max_model_len, 512, 16)
        assert group.num_pages >= one
        used += group.num_pages * page_bytes(group.spec, len(group.layers), 16, 2)
    a_page_each = sum(page_bytes(group.spec, len(group.layers), 16, 2) for group in divided)
    assert used <= num_bytes
    assert used > num_bytes - a_page_each or all(isinstance(spec, State) for spec in specs)


def test_no_more_than_all_sequences_can_use() -> None:
    both = sizes(ALL, WINDOW)
    full, sliding = both.divide(both.most_bytes(32_768), 32_768)
    assert (full.num_pages, sliding.num_pages) == (8 * 2048, 8 * (289 + 1))
    full, sliding = both.divide(2 * both.most_bytes(32_768), 32_768)  # the rest keeps prefixes
    assert full.num_pages > 8 * 2048
    assert sliding.num_pages > 8 * 290


def test_a_state_for_each_row() -> None:
    spec = State(shapes=((64, 128),))
    mixed = sizes(ALL, spec)
    full, state = mixed.divide(1000 * BYTES + 8 * 64 * 128 * 4, 4096)
    assert (full.num_pages, state.num_pages) == (1000, 8)
    # The eight sequences that may run have 125 pages of 16 tokens each.
    assert mixed.longest_at_once(1000 * BYTES + 8 * 64 * 128 * 4, 4096) == 125 * 16


def test_memory_for_less_than_a_sequence() -> None:
    both = sizes(ALL, WINDOW)
    longest = both.longest(600 * BYTES, 10**6)
    assert both.least_bytes(longest) <= 600 * BYTES < both.least_bytes(longest + 16)
    with pytest.raises(ValueError, match=f"lower max_model_len to at most {longest} or give it"):
        both.divide(600 * BYTES, 32_768)


def test_groups_too_small_for_a_sequence() -> None:
    message = r"16 pages for layers that keep Full\(.*max_model_len \(257\) needs 17: lower"
    with pytest.raises(ValueError, match=message):
        EngineConfig(max_model_len=257, groups=groups([FULL], 16), page_size=16)
    with pytest.raises(ValueError, match="groups must have at least one group"):
        EngineConfig(max_model_len=16, groups=())
