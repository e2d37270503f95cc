"""The pools of all cache groups, and the pages that each sequence owns in them.

A sequence owns pages in each group. Without a window they hold all its tokens; pages behind a
window are freed as the sequence grows; a State is one page, from admission to release. A prefix is
only found if all groups can continue from it.

Knows: groups, pages, prefix hashes, how far a sequence is computed.
Deliberately does not know: which sequences run or wait, rows, the budget, JAX.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from flaxen.scheduling.cache.found_prefixes import FoundPrefixes
from flaxen.scheduling.cache.groups import first_page, most_pages, page_bytes
from flaxen.scheduling.cache.page_events import PageEvents
from flaxen.scheduling.cache.pages import PagePool
from flaxen.scheduling.cache.prefixes import Prefixes
from flaxen.scheduling.cache.retention import Retention
from flaxen.scheduling.cache.stored import StoredPages
from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.sequence import NO_PAGE, Sequence
from flaxen.stored_pages.page_store import PageStore


class Pools:
    """Allocates pages to sequences. Only one thread at a time may call it.

    A sequence's pages are in its `pages`, which only this class changes. Callers set how far it is
    computed.

    Args:
      config: the sizes.
      store: keeps pages elsewhere too; None: nothing does.
      publish: gets vLLM's KV events; None: nobody does.
      clock: monotonic seconds.
    """

    def __init__(
        self,
        config: EngineConfig,
        store: PageStore | None = None,
        publish: Callable[[list[dict[str, Any]]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._groups = config.groups
        self._page_size, self._chunk = config.page_size, config.max_num_batched_tokens
        keep_tokens = [group.keeps_tokens for group in config.groups]
        # A State exists for the last token only: a sequence can't continue from an earlier one.
        self.can_roll_back = all(keep_tokens)
        self.has_prefixes = config.enable_prefix_caching and bool(keep_tokens) and all(keep_tokens)
        self.events: PageEvents | None = None
        if publish is not None and self.has_prefixes:
            specs = [group.spec for group in config.groups]
            self.events = PageEvents(specs, config.page_size, publish)
        self.pools = tuple(
            PagePool(
                group.num_pages,
                enable_prefix_caching=self.has_prefixes,
                on_removed=None if self.events is None else partial(self.events.removed, i),
            )
            for i, group in enumerate(config.groups)
        )
        self.stored = StoredPages(store)
        self.retention = Retention(self.pools if self.has_prefixes else (), clock)
        self.num_slots_held = 0  # slots of used pages that hold a token
        self._prefixes = Prefixes(config.page_size, is_enabled=self.has_prefixes)
        self._of_tokens = tuple(i for i, keeps in enumerate(keep_tokens) if keeps)
        windows = [(i, group.window) for i, group in enumerate(config.groups)]
        self._sliding = tuple((i, window) for i, window in windows if window is not None)
        self.found = FoundPrefixes(config, self.pools, self._prefixes, self.stored, self.events)
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

    def admit(self, sequence: Sequence, num_cached: int, num_spare: int) -> bool:
        """Allocates the first pages of a sequence, in all groups or in none.

        These are the cached pages and, without a window, pages for all known tokens: otherwise two
        long prompts, admitted with the same free pages in view, would preempt each other half-way.
        With a window enough pages must be free, and `grow` allocates them.

        Args:
          sequence: a sequence that owns nothing.
          num_cached: the result of `found.num_cached`, in pages.
          num_spare: pages that must stay free in each group, so that other sequences can grow.
        """
        num_tokens = len(sequence.tokens)
        owned: list[list[int]] = []
        num_reused = 0
        for group, pool in zip(self._groups, self.pools, strict=True):
            first = first_page(group.window, num_cached * self._page_size, self._page_size)
            found = [pool.find(each) for each in sequence.page_hashes[first:num_cached]]
            kept = [page for page in found if page is not None]
            num_reused += pool.retain(kept)
            owned.append([NO_PAGE] * first + [NO_PAGE if each is None else each for each in found])
            needed = most_pages(group.spec, num_tokens, self._chunk, self._page_size) - len(kept)
            spare = num_spare if group.keeps_tokens else 0
            if pool.num_free < needed + spare:
                for each, pages in zip(self.pools, owned, strict=False):
                    each.release([page for page in pages if page != NO_PAGE])
                return False
        num_loaded = self.found.load(sequence, owned, num_cached)
        for group, pool, pages in zip(self._groups, self.pools, owned, strict=True):
            if group.window is None:
                num_pages = most_pages(group.spec, num_tokens, self._chunk, self._page_size)
                pages += pool.allocate(num_pages - len(pages))
        sequence.pages, sequence.num_registered = owned, num_cached
        sequence.fetched = None
        self.num_slots_held += (num_reused + num_loaded) * self._page_size
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
            found = self.pools[i].register(sequence.pages[i][begin:end], hashes)
            self._registered(sequence, i, found)
        for i, _ in self._sliding:
            # With a short window a page may be freed before its last token reached the host.
            both = zip(sequence.pages[i][begin:end], hashes, strict=True)
            kept = [(page, content) for page, content in both if page != NO_PAGE]
            pages, contents = [page for page, _ in kept], [content for _, content in kept]
            self._registered(sequence, i, self.pools[i].register(pages, contents))
        sequence.num_registered = end

    def _registered(self, sequence: Sequence, group: int, found: list[tuple[int, bytes]]) -> None:
        """Tells others of pages that were registered, unless nobody who comes now finds them."""
        if found and self._prefixes.is_current(sequence):
            self.stored.fill(sequence, group, found)
            if self.events is not None:
                contents = [content for _, content in found]
                self.events.stored(sequence, group, sequence.num_registered, contents)

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

    def retain(self, sequence: Sequence) -> None:
        """Keeps the pages of a sequence that has ended, or lets them go first, as it asks for."""
        key = sequence.cache_salt, *sequence.session
        if isinstance(sequence.retention, str):
            self.retention.release(key)
        elif sequence.retention is not None and self._prefixes.is_current(sequence):
            self.retention.keep(key, sequence.page_hashes, sequence.retention)
        if sequence.retention == "drop":
            num_found = (sequence.num_cached_tokens or 0) // self._page_size
            for pool in self.pools:
                pool.demote(sequence.page_hashes[num_found:])

    def invalidate(self, salt: str, waiting: Iterable[Sequence]) -> None:
        """Invalidates all cached and stored pages under a cache salt."""
        self._prefixes.invalidate(salt, waiting)
        self.retention.release_salt(salt)
        self.stored.drop(salt)

    @property
    def weights_version(self) -> int:
        """The version of the weights that compute new pages; part of each page's hash."""
        return self._prefixes.weights_version

    def invalidate_all(
        self, waiting: Iterable[Sequence], *, weights_version: int | None = None
    ) -> None:
        """Invalidates all cached and stored pages.

        Args:
          waiting: the waiting sequences.
          weights_version: that of the weights that compute pages from now on; None: the same.
        """
        if weights_version is None:
            self.stored.drop()
        else:
            self._prefixes.weights_version = weights_version
            self.stored.change_weights()
        self._prefixes.invalidate_all(waiting)
        self.reset_cache()

    def reset_cache(self) -> None:
        """Removes all hashes, because the pages' contents were lost."""
        self.stored.lose()
        self.retention.clear()
        if self.events is not None:
            self.events.cleared()
            self.events.flush()
        for pool in self.pools:
            pool.reset_cache()

    def check_invariants(self) -> None:
        """Asserts that each page is free or has owners. Slow: for tests."""
        for pool in self.pools:
            pool.check_invariants()
