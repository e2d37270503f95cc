"""The pools of all cache groups, and the pages that each sequence owns in them.

A sequence owns pages in each group. Without a window they hold all its tokens; pages behind a
window are freed as the sequence grows; a State is one page, from admission to release. A prefix is
only found if all groups can continue from it.

Knows: groups, pages, prefix hashes, how far a sequence is computed.
Deliberately does not know: which sequences run or wait, rows, the budget, JAX.
"""

from __future__ import annotations

from collections.abc import Iterable

from flaxen.scheduling.cache.groups import first_page, most_pages, page_bytes
from flaxen.scheduling.cache.pages import PagePool
from flaxen.scheduling.cache.prefixes import Prefixes
from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.sequence import NO_PAGE, Sequence


class Pools:
    """Allocates pages to sequences. Only one thread at a time may call it.

    A sequence's pages are in its `pages`, which only this class changes. Callers set how far it is
    computed.

    Args:
      config: the sizes.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._groups = config.groups
        self._page_size, self._chunk = config.page_size, config.max_num_batched_tokens
        keep_tokens = [group.keeps_tokens for group in config.groups]
        # A State exists for the last token only: a sequence can't continue from an earlier one.
        self.can_roll_back = all(keep_tokens)
        self.has_prefixes = config.enable_prefix_caching and bool(keep_tokens) and all(keep_tokens)
        self.pools = tuple(
            PagePool(group.num_pages, enable_prefix_caching=self.has_prefixes)
            for group in config.groups
        )
        self.num_slots_held = 0  # slots of used pages that hold a token
        self._prefixes = Prefixes(config.page_size, is_enabled=self.has_prefixes)
        self._of_tokens = tuple(i for i, keeps in enumerate(keep_tokens) if keeps)
        windows = [(i, group.window) for i, group in enumerate(config.groups)]
        self._sliding = tuple((i, window) for i, window in windows if window is not None)
        self._unbounded = tuple(i for i, window in windows if window is None and keep_tokens[i])

    @property
    def usage(self) -> float:
        """The share of the cache's bytes in pages that some sequence owns."""
        num_used = num_all = 0
        for group, pool in zip(self._groups, self.pools, strict=True):
            # Numbers count as bfloat16: their size matters only beside a State, which is float32.
            size = page_bytes(group.spec, len(group.layers), self._page_size, 2)
            num_used += pool.num_used * size
            num_all += pool.num_pages * size
        return num_used / num_all if num_all else 0.0  # an encoder has no pages

    @property
    def num_pages(self) -> int:
        """The number of pages in all groups."""
        return sum(pool.num_pages for pool in self.pools)

    @property
    def num_used(self) -> int:
        """The number of pages with an owner."""
        return sum(pool.num_used for pool in self.pools)

    def num_cached(self, sequence: Sequence, limit: int) -> int:
        """The number of pages at a sequence's beginning that need not be computed.

        Each group limits it: without a window all these pages must be cached, with a window those
        that the next token sees. With a State nothing can be skipped.

        Args:
          sequence: missing hashes of its full pages are added.
          limit: the most pages.
        """
        if not self.has_prefixes:
            return 0
        self._prefixes.extend(sequence)
        hashes = sequence.page_hashes[:limit]
        num = len(hashes)
        for i in self._unbounded:
            num = len(self.pools[i].lookup(hashes[:num]))
        settled = 0 if self._sliding else num
        while settled != num:
            settled = num
            for i, window in self._sliding:
                num = self._num_seen(self.pools[i], window, hashes, num)
        return num

    def _num_seen(self, pool: PagePool, window: int, hashes: list[bytes], num: int) -> int:
        """The largest prefix, of at most `num` pages, whose last window of pages is cached."""
        page, first = num, first_page(window, num * self._page_size, self._page_size)
        while page > first:
            page -= 1
            if not pool.holds(hashes[page]):
                num = page
                first = first_page(window, num * self._page_size, self._page_size)
        return num

    def admit(self, sequence: Sequence, num_cached: int, num_spare: int) -> bool:
        """Allocates the first pages of a sequence, in all groups or in none.

        These are the cached pages and, without a window, pages for all known tokens: otherwise two
        long prompts, admitted with the same free pages in view, would preempt each other half-way.
        With a window enough pages must be free, and `grow` allocates them.

        Args:
          sequence: a sequence that owns nothing.
          num_cached: the result of `num_cached`, in pages.
          num_spare: pages that must stay free in each group, so that other sequences can grow.
        """
        num_tokens = len(sequence.tokens)
        owned: list[list[int]] = []
        num_reused = 0
        for group, pool in zip(self._groups, self.pools, strict=True):
            first = first_page(group.window, num_cached * self._page_size, self._page_size)
            found = pool.lookup(sequence.page_hashes[first:num_cached])
            num_reused += pool.retain(found)
            owned.append([NO_PAGE] * first + found)
            needed = most_pages(group.spec, num_tokens, self._chunk, self._page_size) - len(found)
            spare = num_spare if group.keeps_tokens else 0
            if pool.num_free < needed + spare:
                for each, pages in zip(self.pools, owned, strict=False):
                    each.release([page for page in pages if page != NO_PAGE])
                return False
        for group, pool, pages in zip(self._groups, self.pools, owned, strict=True):
            if group.window is None:
                num_pages = most_pages(group.spec, num_tokens, self._chunk, self._page_size)
                pages += pool.allocate(num_pages - len(pages))
        sequence.pages, sequence.num_registered = owned, num_cached
        self.num_slots_held += num_reused * self._page_size
        return True

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Allocates pages for a sequence's first `num_tokens`, and frees those behind windows.

        Returns:
          False if a group has too few free pages; nothing is allocated then.
        """
        certain = sequence.num_computed_tokens - sequence.num_rejectable
        for i, window in self._sliding:
            self._free_before(sequence, i, first_page(window, certain, self._page_size))
        end = -(-num_tokens // self._page_size)
        for i in self._of_tokens:
            if self.pools[i].num_free < end - len(sequence.pages[i]):
                return False
        for i in self._of_tokens:
            pages = sequence.pages[i]
            if end > len(pages):
                pages += self.pools[i].allocate(end - len(pages))
        return True

    def _free_before(self, sequence: Sequence, group: int, first: int) -> None:
        pages = sequence.pages[group]
        begin = first
        while begin > 0 and pages[begin - 1] != NO_PAGE:
            begin -= 1
        passed = pages[begin:first]
        if passed:
            self.num_slots_held -= self.pools[group].release(passed) * self._page_size
            pages[begin:first] = [NO_PAGE] * len(passed)

    def count_step(self, num_tokens: int) -> tuple[int, int]:
        """Counts the slots that a step fills: one for each token in each group with slots.

        Returns:
          The filled slots of used pages, and all slots of used pages.
        """
        self.num_slots_held += num_tokens * len(self._of_tokens)
        num_used = 0
        for i in self._of_tokens:
            num_used += self.pools[i].num_used
        return self.num_slots_held, num_used * self._page_size

    def register(self, sequence: Sequence) -> None:
        """Registers the pages that a sequence fills with known tokens, so that others find them.

        This happens before the step that fills them has run. The earliest step in which another
        sequence can use them is the same step, where each layer writes all keys before it reads any
        (decision 0030).
        """
        begin = sequence.num_registered
        end = (sequence.num_computed_tokens - sequence.num_rejectable) // self._page_size
        if begin >= end or not self.has_prefixes:
            return
        self._prefixes.extend(sequence)
        hashes = sequence.page_hashes[begin:end]  # pages whose tokens are not known yet have none
        end = begin + len(hashes)
        for i in self._unbounded:
            self.pools[i].register(sequence.pages[i][begin:end], hashes)
        for i, _ in self._sliding:
            # With a short window a page may be freed before its last token reached the host.
            pages = zip(sequence.pages[i][begin:end], hashes, strict=True)
            kept = [(page, content) for page, content in pages if page != NO_PAGE]
            self.pools[i].register([page for page, _ in kept], [content for _, content in kept])
        sequence.num_registered = end

    def roll_back(self, sequence: Sequence, num_tokens: int) -> None:
        """Frees the pages beyond the first `num_tokens`, whose contents are discarded.

        Args:
          sequence: a sequence whose num_computed_tokens is not reduced yet.
          num_tokens: at least the number of accepted tokens.
        """
        assert self.can_roll_back, "a State can't go back to an earlier token"
        certain = sequence.num_computed_tokens - sequence.num_rejectable
        assert certain <= num_tokens, f"{num_tokens} tokens, and {certain} are accepted"
        end = -(-num_tokens // self._page_size)
        for pool, pages in zip(self.pools, sequence.pages, strict=True):
            pool.release(pages[end:])
            del pages[end:]
        num_rejected = sequence.num_computed_tokens - num_tokens
        self.num_slots_held -= num_rejected * len(self._of_tokens)

    def release(self, sequence: Sequence) -> None:
        """Frees all pages of a sequence."""
        num_full, num_in_last = divmod(sequence.num_computed_tokens, self._page_size)
        for group, pool, pages in zip(self._groups, self.pools, sequence.pages, strict=True):
            owned = [page for page in pages if page != NO_PAGE]
            # Only full pages are shared, so only full pages can keep another owner.
            num_kept = len(owned) - pool.release(owned)
            if group.keeps_tokens:
                num_left = num_full - (len(pages) - len(owned)) - num_kept
                self.num_slots_held -= num_left * self._page_size + num_in_last
        sequence.pages = []
        sequence.num_registered = 0

    def invalidate(self, salt: str, waiting: Iterable[Sequence]) -> None:
        """Invalidates all cached pages under a cache salt."""
        self._prefixes.invalidate(salt, waiting)

    @property
    def weights_version(self) -> int:
        """The version of the weights that compute new pages; part of each page's hash."""
        return self._prefixes.weights_version

    def invalidate_all(
        self, waiting: Iterable[Sequence], *, weights_version: int | None = None
    ) -> None:
        """Invalidates all cached pages.

        Args:
          waiting: the waiting sequences.
          weights_version: that of the weights that compute pages from now on; None: the same.
        """
        if weights_version is not None:
            self._prefixes.weights_version = weights_version
        self._prefixes.invalidate_all(waiting)
        self.reset_cache()

    def reset_cache(self) -> None:
        """Removes all hashes, because the pages' contents were lost."""
        for pool in self.pools:
            pool.reset_cache()

    def check_invariants(self) -> None:
        """Asserts that each page is free or has owners. Slow: for tests."""
        for pool in self.pools:
            pool.check_invariants()
