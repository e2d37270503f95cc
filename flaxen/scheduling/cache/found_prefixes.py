"""The pages at a sequence's beginning that need not be computed: cached ones, and stored ones.

Deliberately does not know: which pages a sequence owns beyond these, how bytes are copied, JAX.
"""

from __future__ import annotations

from typing import final

from flaxen.scheduling.cache.groups import first_page
from flaxen.scheduling.cache.page_events import PageEvents
from flaxen.scheduling.cache.pages import PagePool
from flaxen.scheduling.cache.prefix_search import PrefixSearch
from flaxen.scheduling.cache.prefixes import Prefixes
from flaxen.scheduling.cache.stored import PageLoad, StoredPages
from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.sequence import NO_PAGE, Sequence
from flaxen.stored_pages.page_store import page_key


@final
class FoundPrefixes:
    """Finds them, fetches them, and allocates pages for those that are only stored.

    Args:
      config: the sizes.
      pools: one for each cache group.
      prefixes: names pages by their contents.
      stored: what is stored elsewhere.
      events: is told of pages that come back; None: nobody is.
    """

    def __init__(
        self,
        config: EngineConfig,
        pools: tuple[PagePool, ...],
        prefixes: Prefixes,
        stored: StoredPages,
        events: PageEvents | None,
    ) -> None:
        self._groups, self._page_size = config.groups, config.page_size
        self._pools, self._prefixes, self._stored = pools, prefixes, stored
        self._events = events
        self._search = PrefixSearch(config.groups, pools, config.page_size)

    def num_cached(self, sequence: Sequence, limit: int) -> int:
        """The number of pages at a sequence's beginning that need not be computed.

        Each group limits it: without a window all these pages must be cached, with a window those
        that the next token sees. With a State nothing can be skipped.

        Args:
          sequence: missing hashes of its full pages are added.
          limit: the most pages.
        """
        if not self._prefixes.is_enabled:
            return 0
        self._prefixes.extend(sequence)
        fetched = sequence.fetched
        stored = {} if fetched is None else fetched.pages
        return self._search.num_found(sequence.page_hashes[:limit], stored)

    def fetch(self, sequence: Sequence, limit: int) -> None:
        """Starts to get the pages at a sequence's beginning that are stored, and not cached.

        Args:
          sequence: missing hashes of its full pages are added.
          limit: the most pages.
        """
        store = self._stored.store
        if store is None or not self._prefixes.is_enabled:
            return
        self._prefixes.extend(sequence)
        hashes = sequence.page_hashes[:limit]
        end = self._search.num_found(hashes, store)
        num_tokens = end * self._page_size
        first = [first_page(each.window, num_tokens, self._page_size) for each in self._groups]
        keys = [
            page_key(i, content)
            for i, pool in enumerate(self._pools)
            for content in hashes[first[i] : end]
            if not pool.holds(content)
        ]
        is_second = sequence.fetched is not None
        sequence.fetched = store.fetch(keys)
        sequence.fetched.num_expected, sequence.fetched.is_second = end, is_second

    def load(self, sequence: Sequence, owned: list[list[int]], num_cached: int) -> int:
        """Allocates the cached pages that are only stored. Others find them at once: they are
        written before the step. Returns how many there are in all groups.
        """
        if sequence.fetched is None:
            return 0
        before = len(self._stored.loads)
        most = 0
        for i, (group, pool) in enumerate(zip(self._groups, self._pools, strict=True)):
            first = first_page(group.window, num_cached * self._page_size, self._page_size)
            missing = [at for at in range(first, num_cached) if owned[i][at] == NO_PAGE]
            hashes = [sequence.page_hashes[at] for at in missing]
            pages = pool.allocate(len(missing))
            registered = pool.register(pages, hashes)
            if self._events is not None:
                self._events.stored(sequence, i, first, [content for _, content in registered])
            for at, page, content in zip(missing, pages, hashes, strict=True):
                owned[i][at] = page
                found = sequence.fetched.pages[page_key(i, content)]
                self._stored.loads.append(PageLoad(i, page, found))
            most = max(most, len(missing))
        self._stored.num_hit_tokens += most * self._page_size
        return len(self._stored.loads) - before
