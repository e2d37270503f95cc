"""The pools of all cache groups, and which of their pages each sequence owns.

A sequence owns pages in each group. Those of a group without a window hold all its tokens; those
behind a window are freed as the sequence goes on; a State is one page, from admission to release.
A prefix is found only where all groups can go on from it.

Knows: groups, pages, the names of prefixes, how far a sequence is computed.
Deliberately does not know: who runs and who waits, rows, the budget, JAX.
"""

from __future__ import annotations

from collections.abc import Iterable

from flaxen.engine.cache.groups import first_page, most_pages
from flaxen.engine.cache.pages import PagePool
from flaxen.engine.cache.prefixes import Prefixes
from flaxen.engine.config import EngineConfig
from flaxen.engine.sequence import NO_PAGE, Sequence


class Pools:
    """Gives pages to sequences. One thread at a time may call it.

    What a sequence owns is in its `pages`, which only this class changes. How far it is computed is
    for others to say.

    Args:
      config: the sizes.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._groups = config.groups
        self._page_size, self._chunk = config.page_size, config.max_num_batched_tokens
        keep_tokens = [group.keeps_tokens for group in config.groups]
        # A State is that of its last token alone: no sequence can begin, or go back, elsewhere.
        self.can_roll_back = all(keep_tokens)
        self.has_prefixes = config.enable_prefix_caching and all(keep_tokens)
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
    def num_pages(self) -> int:
        """Pages of all groups."""
        return sum(pool.num_pages for pool in self.pools)

    @property
    def num_used(self) -> int:
        """Pages that some sequence owns."""
        return sum(pool.num_used for pool in self.pools)

    def num_cached(self, sequence: Sequence, limit: int) -> int:
        """How many pages' tokens of its beginning a sequence need not compute.

        Each group limits it: without a window all these pages must be there, with one those that
        the next token sees. Beside a State nothing can be left out.

        Args:
          sequence: names that its full pages lack are given to them.
          limit: pages.
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
        """The most of the first `num` pages after which a window's pages are all there."""
        page, first = num, first_page(window, num * self._page_size, self._page_size)
        while page > first:
            page -= 1
            if not pool.holds(hashes[page]):
                num = page
                first = first_page(window, num * self._page_size, self._page_size)
        return num

    def admit(self, sequence: Sequence, num_cached: int, num_spare: int) -> bool:
        """Gives a sequence the pages that it begins with, in all groups or in none.

        These are the cached ones, and without a window those for all its known tokens: two long
        prompts admitted on the same free pages would preempt each other half-way. With a window
        only their number must be free; `grow` gives them.

        Args:
          sequence: owns nothing.
          num_cached: as `num_cached` found, of pages.
          num_spare: pages that must stay free in each group, so that others can grow.
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
        """Gives a sequence the pages for its first `num_tokens`, and frees those behind windows.

        Returns:
          False if too few pages are free in some group; then none is given.
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
        """Counts the slots that a step fills: one for each token, in each group that keeps tokens.

        Returns:
          The slots of used pages that hold a token then, and all slots of used pages.
        """
        self.num_slots_held += num_tokens * len(self._of_tokens)
        num_used = 0
        for i in self._of_tokens:
            num_used += self.pools[i].num_used
        return self.num_slots_held, num_used * self._page_size

    def register(self, sequence: Sequence) -> None:
        """Lets others find the pages that a sequence has filled with known tokens.

        Before the step that fills them has run: whoever finds them is at the earliest in the same
        step, in which each layer writes all keys before it reads any (decision 0030).
        """
        begin = sequence.num_registered
        end = (sequence.num_computed_tokens - sequence.num_rejectable) // self._page_size
        if begin >= end or not self.has_prefixes:
            return
        self._prefixes.extend(sequence)
        hashes = sequence.page_hashes[begin:end]  # none of a page whose tokens are not known yet
        end = begin + len(hashes)
        for i in self._unbounded:
            self.pools[i].register(sequence.pages[i][begin:end], hashes)
        for i, _ in self._sliding:
            # A short window may have passed a page before its last token reached the host.
            pages = zip(sequence.pages[i][begin:end], hashes, strict=True)
            kept = [(page, content) for page, content in pages if page != NO_PAGE]
            self.pools[i].register([page for page, _ in kept], [content for _, content in kept])
        sequence.num_registered = end

    def roll_back(self, sequence: Sequence, num_tokens: int) -> None:
        """Frees the pages past the first `num_tokens`: what was computed there does not count.

        Args:
          sequence: its num_computed_tokens are still those before.
          num_tokens: no fewer than those that can't be rejected.
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
        """Takes all its pages from a sequence."""
        num_full, num_in_last = divmod(sequence.num_computed_tokens, self._page_size)
        for group, pool, pages in zip(self._groups, self.pools, sequence.pages, strict=True):
            owned = [page for page in pages if page != NO_PAGE]
            # Pages that are not full are never shared, so that only full ones can stay used.
            num_kept = len(owned) - pool.release(owned)
            if group.keeps_tokens:
                num_left = num_full - (len(pages) - len(owned)) - num_kept
                self.num_slots_held -= num_left * self._page_size + num_in_last
        sequence.pages = []
        sequence.num_registered = 0

    def distrust(self, salt: str, waiting: Iterable[Sequence]) -> None:
        """Lets nobody find the pages filled so far under a cache salt."""
        self._prefixes.distrust(salt, waiting)

    def drop_prefixes(self, waiting: Iterable[Sequence]) -> None:
        """Lets nobody find any page filled so far."""
        self._prefixes.drop(waiting)
        self.reset_cache()

    def reset_cache(self) -> None:
        """Forgets what the pages hold: it was lost."""
        for pool in self.pools:
            pool.reset_cache()

    def check_invariants(self) -> None:
        """Asserts that each page is free or has owners. Slow: for tests."""
        for pool in self.pools:
            pool.check_invariants()
