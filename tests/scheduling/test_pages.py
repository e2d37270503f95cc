"""The page pool: order of eviction, sharing by hash, and its invariants under any use."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flaxen.scheduling.cache.pages import PagePool, extend_hashes, page_hash, root_hash


def chain(tokens: list[int], page_size: int = 2, salt: str = "") -> list[bytes]:
    hashes: list[bytes] = []
    extend_hashes(hashes, tokens, page_size, root_hash(salt))
    return hashes


def test_pages_are_counted() -> None:
    pool = PagePool(4)
    pages = pool.allocate(3)
    assert len(set(pages)) == 3
    assert (pool.num_free, pool.num_used) == (1, 3)
    assert pool.release(pages) == 3
    assert (pool.num_free, pool.num_used) == (4, 0)


def test_a_pool_without_pages_is_refused() -> None:
    with pytest.raises(ValueError, match=r"num_pages must be at least 1, got 0"):
        PagePool(0)


def test_more_pages_than_are_free_is_our_own_bug() -> None:
    pool = PagePool(2)
    with pytest.raises(AssertionError, match="3 pages are allocated, but 2 are free"):
        pool.allocate(3)


def test_releasing_a_free_page_is_our_own_bug() -> None:
    pool = PagePool(2)
    with pytest.raises(AssertionError, match="page 1 is released, but nobody owns it"):
        pool.release([1])


def test_registering_a_free_page_is_our_own_bug() -> None:
    with pytest.raises(AssertionError, match="page 0 is registered, but nobody owns it"):
        PagePool(2).register([0], chain([1, 2]))


def test_registering_a_page_twice_is_our_own_bug() -> None:
    pool = PagePool(1)
    pages = pool.allocate(1)
    pool.register(pages, chain([1, 2]))
    with pytest.raises(AssertionError, match="page 0 is registered twice"):
        pool.register(pages, chain([3, 4]))


def test_a_released_page_is_found_and_owned_again() -> None:
    pool = PagePool(4)
    pages = pool.allocate(2)
    pool.register(pages, chain([1, 2, 3, 4]))
    pool.release(pages)
    assert pool.lookup(chain([1, 2, 3, 4, 5, 6])) == pages
    assert pool.retain(pages) == 2
    assert pool.retain(pages) == 0  # a second owner
    assert pool.release(pages) == 0
    assert pool.num_used == 2


def test_a_lookup_ends_at_the_first_page_that_is_missing() -> None:
    pool = PagePool(4)
    hashes = chain([1, 2, 3, 4, 5, 6])
    pages = pool.allocate(3)
    pool.register([pages[0], pages[2]], [hashes[0], hashes[2]])
    assert pool.lookup(hashes) == [pages[0]]


def test_a_hash_keeps_its_first_page() -> None:
    pool = PagePool(2)
    first, second = pool.allocate(2)
    pool.register([first], chain([1, 2]))
    pool.register([second], chain([1, 2]))
    assert pool.lookup(chain([1, 2])) == [first]
    pool.check_invariants()


def test_the_tail_of_a_prefix_is_evicted_first() -> None:
    pool = PagePool(3)
    pages = pool.allocate(3)
    pool.register(pages, chain([1, 2, 3, 4, 5, 6]))
    pool.release(pages)
    for num_left in (2, 1, 0):
        pool.allocate(1)
        assert pool.lookup(chain([1, 2, 3, 4, 5, 6])) == pages[:num_left]


def test_the_least_recently_used_prefix_is_evicted_first() -> None:
    pool = PagePool(3)
    found = {}
    for tokens in ((1, 1), (2, 2), (3, 3)):
        pages = pool.allocate(1)
        pool.register(pages, chain(list(tokens)))
        pool.release(pages)
        found[tokens] = pages
    pool.retain(found[1, 1])  # the oldest, used again
    pool.release(found[1, 1])
    pool.allocate(1)
    assert pool.lookup(chain([2, 2])) == []
    assert pool.lookup(chain([1, 1])) == found[1, 1]
    assert pool.lookup(chain([3, 3])) == found[3, 3]


def test_pages_that_hold_nothing_are_used_before_any_is_evicted() -> None:
    pool = PagePool(3)
    cached = pool.allocate(1)
    plain = pool.allocate(2)
    pool.register(cached, chain([1, 2]))
    pool.release(cached)
    pool.release(plain)  # later than the cached page
    assert sorted(pool.allocate(2)) == sorted(plain)
    assert pool.lookup(chain([1, 2])) == cached


def test_a_reset_forgets_pages_in_use_and_free_ones() -> None:
    pool = PagePool(2)
    used, free = pool.allocate(1), pool.allocate(1)
    pool.register(used, chain([1, 2]))
    pool.register(free, chain([3, 4]))
    pool.release(free)
    pool.reset_cache()
    assert pool.lookup(chain([1, 2])) == pool.lookup(chain([3, 4])) == []
    assert pool.num_used == 1
    pool.check_invariants()


def test_pages_that_were_used_come_before_those_that_take_no_memory_yet() -> None:
    pool = PagePool(4)
    pages = pool.allocate(2)
    pool.register(pages, chain([1, 2, 3, 4]))
    pool.release(pages)
    pool.reset_cache()
    assert set(pool.allocate(2)) == set(pages)
    pool = PagePool(4)
    pool.release(pool.allocate(2))
    assert set(pool.allocate(2)) == {0, 1}


def test_nothing_is_registered_without_prefix_caching() -> None:
    pool = PagePool(2, enable_prefix_caching=False)
    pool.register(pool.allocate(1), chain([1, 2]))
    assert pool.lookup(chain([1, 2])) == []
    pool.check_invariants()


def test_a_hash_depends_on_all_that_keys_depend_on() -> None:
    root = root_hash("")
    parents = [
        root,
        root_hash("a"),
        root_hash("", adapter="a"),
        root_hash("", epoch=1),
        root_hash("", weights_version=1),
    ]
    parents += [page_hash(root, [1, 2]), page_hash(root, [2, 1])]
    hashes = [page_hash(parent, ids) for parent in parents for ids in ([1, 2], [3, 4], [1, 2, 3])]
    assert len(set(hashes)) == len(hashes)
    assert page_hash(root, [1, 2]) == page_hash(root_hash(""), (1, 2))


def test_hashes_are_extended_by_full_pages_only() -> None:
    tokens = [1, 2, 3, 4, 5]
    hashes = chain(tokens[:3])
    assert len(hashes) == 1
    extend_hashes(hashes, tokens, 2, hashes[-1])
    assert hashes == chain(tokens)
    assert len(hashes) == 2


class PoolMachine(RuleBasedStateMachine):
    """Owners take, share and give back chains of pages; a plain model says what must be found."""

    @initialize(num_pages=st.integers(1, 12), caching=st.booleans())
    def start(self, num_pages: int, caching: bool) -> None:
        self.pool = PagePool(num_pages, enable_prefix_caching=caching)
        self.owned: list[list[int]] = []
        self.kept: list[list[bytes]] = []
        self.content: dict[int, bytes] = {}  # by page: the hash it was registered with

    @rule(tokens=st.lists(st.integers(0, 1), max_size=10), num_registered=st.integers(0, 5))
    def take(self, tokens: list[int], num_registered: int) -> None:
        hashes = chain(tokens)
        found = self.pool.lookup(hashes)
        assert [self.content[page] for page in found] == hashes[: len(found)]
        self.pool.retain(found)
        num_new = len(hashes) - len(found)
        if num_new > self.pool.num_free:
            self.pool.release(found)
            return
        kept_before = self.kept_pages()
        new = self.pool.allocate(num_new)
        kept_before -= set(found)
        if kept_before & set(new):
            assert self.pool.num_free == len(kept_before - set(new)), "others were free"
        in_use = {page for pages in self.owned for page in pages} | set(found)
        assert not in_use & set(new), "a page in use was handed out"
        assert len(set(new)) == num_new
        for page in new:
            self.content.pop(page, None)
        pages = found + new
        end = min(len(pages), len(found) + num_registered)
        if self.pool.enable_prefix_caching:
            for page, content in zip(new, hashes[len(found) : end], strict=False):
                if content not in self.content.values():
                    self.content[page] = content
        self.pool.register(pages[len(found) : end], hashes[len(found) : end])
        self.owned.append(pages)

    def kept_pages(self) -> set[int]:
        """Free pages that somebody keeps."""
        kept = {each for hashes in self.kept for each in hashes}
        in_use = {page for pages in self.owned for page in pages}
        return {page for page, each in self.content.items() if each in kept} - in_use

    @precondition(lambda self: self.owned)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        pages = self.owned.pop(data.draw(st.integers(0, len(self.owned) - 1)))
        in_use = {page for other in self.owned for page in other}
        assert self.pool.release(pages) == len(set(pages) - in_use)

    @rule()
    def reset(self) -> None:
        self.pool.reset_cache()
        self.content.clear()

    @rule(tokens=st.lists(st.integers(0, 1), max_size=10))
    def keep(self, tokens: list[int]) -> None:
        self.pool.keep(chain(tokens))
        self.kept.append(chain(tokens))

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def unkeep(self, data: st.DataObject) -> None:
        self.pool.unkeep(self.kept.pop(data.draw(st.integers(0, len(self.kept) - 1))))
        assert self.pool.num_kept == len({each for hashes in self.kept for each in hashes})

    @invariant()
    def holds(self) -> None:
        self.pool.check_invariants()
        assert self.pool.num_used == len({page for pages in self.owned for page in pages})
        for page, content in self.content.items():
            assert self.pool.lookup([content]) == [page]


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
