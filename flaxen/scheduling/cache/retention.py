"""Keeps the prefixes of sessions that will be back, as agents after tool calls (decision 0364).

Knows: hashes of pages, seconds. Deliberately does not know: what a session is, owners of pages.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import final

from flaxen.scheduling.cache.pages import PagePool

_MOST = 0.5  # of each pool: the rest is for those who keep nothing


@final
class Retention:
    """The prefixes that are kept, each until its time.

    A kept page is free, and allocated only when no other is, so that keeping it keeps nobody from
    running.

    Args:
      pools: all of them.
      clock: monotonic seconds.
    """

    def __init__(self, pools: Sequence[PagePool], clock: Callable[[], float]) -> None:
        self._pools, self._clock = pools, clock
        # By key, least recently kept first: the hashes, and until when.
        self._kept: OrderedDict[tuple[str, ...], tuple[list[bytes], float]] = OrderedDict()
        self._next_s = float("inf")

    def keep(self, key: tuple[str, ...], hashes: Sequence[bytes], ttl_s: float) -> None:
        """Keeps a prefix in place of what the key kept before; others go if it is too much.

        Args:
          key: a salt and a session under it.
          hashes: of the pages, from the prefix's beginning; what is beyond the limit is not kept.
          ttl_s: for how long.
        """
        self.release(key)
        most = min((int(pool.num_pages * _MOST) for pool in self._pools), default=0)
        hashes = list(hashes[:most])
        while self._kept and any(pool.num_kept + len(hashes) > most for pool in self._pools):
            self.release(next(iter(self._kept)))
        for pool in self._pools:
            pool.keep(hashes)
        until_s = self._clock() + ttl_s
        self._kept[key] = hashes, until_s
        self._next_s = min(self._next_s, until_s)

    def release(self, key: tuple[str, ...]) -> None:
        """Keeps nothing for a key any more; an unknown one is ignored."""
        hashes, _ = self._kept.pop(key, ((), 0.0))
        for pool in self._pools:
            pool.unkeep(hashes)

    def release_salt(self, salt: str) -> None:
        """The same for all keys under a salt."""
        for key in [key for key in self._kept if key[0] == salt]:
            self.release(key)

    def clear(self) -> None:
        """The same for all keys."""
        for key in list(self._kept):
            self.release(key)

    def expire(self) -> None:
        """Releases what was kept until now. To be called before each step is planned."""
        now = self._clock()
        if now < self._next_s:
            return
        for key, (_, until_s) in list(self._kept.items()):
            if until_s <= now:
                self.release(key)
        self._next_s = min((until_s for _, until_s in self._kept.values()), default=float("inf"))
