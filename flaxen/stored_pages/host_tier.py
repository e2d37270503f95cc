"""Pages in the host's memory, least recently used first to go.

Deliberately does not know: disks, what a key is made of.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import final

import numpy as np


@final
class HostTier:
    """Pages by their keys. Safe to call from any thread.

    Args:
      num_bytes: the most bytes of all pages; 0 keeps none.
    """

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes, self._lock = num_bytes, threading.Lock()
        self._pages: OrderedDict[bytes, tuple[np.ndarray, str]] = OrderedDict()
        self.num_held_bytes = 0

    def __contains__(self, key: object) -> bool:
        return key in self._pages

    def get(self, key: bytes) -> np.ndarray | None:
        """A page, which nobody may change; None if it is not here."""
        with self._lock:
            found = self._pages.get(key)
            if found is None:
                return None
            self._pages.move_to_end(key)
            return found[0]

    def put(self, key: bytes, page: np.ndarray, owner: str) -> None:
        """Keeps a page, an array of its own memory, and evicts others for it.

        Args:
          key: its key; what is here already stays.
          page: uint8, which nobody changes any more.
          owner: whose pages `drop` removes together.
        """
        with self._lock:
            if key in self._pages or page.nbytes > self._num_bytes:
                return
            while self.num_held_bytes + page.nbytes > self._num_bytes:
                _, (evicted, _) = self._pages.popitem(last=False)
                self.num_held_bytes -= evicted.nbytes
            self._pages[key] = page, owner
            self.num_held_bytes += page.nbytes

    def touch(self, keys: Iterable[bytes]) -> None:
        """Marks pages as used, the last one as the most recently used."""
        with self._lock:
            for key in keys:
                if key in self._pages:
                    self._pages.move_to_end(key)

    def drop(self, owner: str | None = None) -> None:
        """Removes an owner's pages; None: all."""
        with self._lock:
            for key, (page, whose) in list(self._pages.items()):
                if owner in (None, whose):
                    del self._pages[key]
                    self.num_held_bytes -= page.nbytes
