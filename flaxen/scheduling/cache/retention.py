"""Keeps the prefixes of sessions that will be back, as agents after tool calls (decision 0364).

Knows: hashes of pages, seconds. Deliberately does not know: what a session is, owners of pages.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, final

from flaxen.scheduling.cache.pages import PagePool

_RECENT_S = 60.0  # who was back since then keeps its prefix, though others want to keep theirs
_MOST = 0.5  # of each pool: the rest is for those who keep nothing


class _Kept(NamedTuple):
    """The hashes of a prefix, since when they are kept, and until when."""

    hashes: list[bytes]
    since_s: float
    until_s: float


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
        self._kept: OrderedDict[tuple[str, ...], _Kept] = OrderedDict()  # least recent first
        self._next_s = float("inf")

    def keep(self, key: tuple[str, ...], hashes: Sequence[bytes], ttl_s: float) -> None:
        """Keeps a prefix in place of what the key kept before. If that is too much, those go that
        were not back for a while; if there are none, this one is not kept. (If the latest went
        before others, of many sessions in turns none would find anything.)

        Args:
          key: a salt and a session under it.
          hashes: of the pages, from the prefix's beginning; what is beyond the limit is not kept.
          ttl_s: for how long.
        """
        self.release(key)
        most = min((int(pool.num_pages * _MOST) for pool in self._pools), default=0)
        hashes, now = list(hashes[:most]), self._clock()
        while any(pool.num_kept + pool.num_not_kept(hashes) > most for pool in self._pools):
            oldest = next(iter(self._kept), None)
            if oldest is None or now - self._kept[oldest].since_s < _RECENT_S:
                return
            self.release(oldest)
        for pool in self._pools:
            pool.keep(hashes)
        until_s = now + ttl_s
        self._kept[key] = _Kept(hashes, now, until_s)
        self._next_s = min(self._next_s, until_s)

    def release(self, key: tuple[str, ...]) -> None:
        """Keeps nothing for a key any more; an unknown one is ignored."""
        if (kept := self._kept.pop(key, None)) is not None:
            for pool in self._pools:
                pool.unkeep(kept.hashes)

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
        for key, kept in list(self._kept.items()):
            if kept.until_s <= now:
                self.release(key)
        self._next_s = min((each.until_s for each in self._kept.values()), default=float("inf"))
