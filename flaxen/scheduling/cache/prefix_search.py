"""Finds the longest prefix that all cache groups can continue from (decision 0221).

Deliberately does not know: sequences, where stored pages are, who owns cached ones.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import final

from flaxen.scheduling.cache.groups import CacheGroup, first_page
from flaxen.scheduling.cache.pages import PagePool
from flaxen.stored_pages.page_store import page_key


@final
class PrefixSearch:
    """Looks for pages in the pools, and among stored ones.

    Args:
      groups: the cache groups.
      pools: one for each.
      page_size: tokens.
    """

    def __init__(
        self, groups: Sequence[CacheGroup], pools: Sequence[PagePool], page_size: int
    ) -> None:
        self._pools, self._page_size = pools, page_size
        windows = [(i, group.window) for i, group in enumerate(groups)]
        self._sliding = [(i, window) for i, window in windows if window is not None]
        self._unbounded = [i for i, window in windows if window is None]

    def num_found(self, hashes: list[bytes], stored: Container[bytes]) -> int:
        """The most pages at a prefix's beginning that need not be computed.

        Args:
          hashes: of its pages.
          stored: the keys of pages that are there beside those in the pools; empty for none.
        """
        num = len(hashes)
        for i in self._unbounded:
            num = self._num_held(i, hashes, num, stored)
        settled = 0 if self._sliding else num
        while settled != num:
            settled = num
            for i, window in self._sliding:
                num = self._num_seen(i, window, hashes, num, stored)
        return num

    def _num_held(self, group: int, hashes: list[bytes], num: int, stored: Container[bytes]) -> int:
        """The longest prefix, of at most `num` pages, that a group without a window has."""
        found = len(self._pools[group].lookup(hashes[:num]))
        while found < num and stored and self._holds(group, hashes[found], stored):
            found += 1
        return found

    def _num_seen(
        self, group: int, window: int, hashes: list[bytes], num: int, stored: Container[bytes]
    ) -> int:
        """The largest prefix, of at most `num` pages, whose last window of pages is there."""
        page, first = num, first_page(window, num * self._page_size, self._page_size)
        while page > first:
            page -= 1
            if not self._holds(group, hashes[page], stored):
                num = page
                first = first_page(window, num * self._page_size, self._page_size)
        return num

    def _holds(self, group: int, content: bytes, stored: Container[bytes]) -> bool:
        return self._pools[group].holds(content) or page_key(group, content) in stored
