"""Which pages leave the pools to be stored elsewhere, and which come back (decision 0363).

Knows: sequences, their hashes, the store.
Deliberately does not know: how bytes are copied, the owners of pages, JAX.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import numpy as np

from flaxen.scheduling.sequence import Sequence
from flaxen.stored_pages.page_store import FilledPage, PageStore, page_key


@dataclass(frozen=True, slots=True)
class PageLoad:
    """A page that was allocated for stored bytes, to be written before the step."""

    group: int
    page: int
    content: np.ndarray  # uint8


@final
class StoredPages:
    """Collects the pages that are copied between two steps.

    Pages are read before the step that is planned next: whoever got one of them meanwhile
    overwrites it in that step at the earliest.

    Args:
      store: where pages are kept; None copies nothing.
    """

    def __init__(self, store: PageStore | None) -> None:
        self.store = store
        self.filled: list[FilledPage] = []  # registered, and not read yet
        self.loads: list[PageLoad] = []  # of the sequences that were just admitted
        self.num_hit_tokens = 0  # computed nowhere, because stored pages had them
        self._ended: list[tuple[str, list[bytes]]] = []

    @property
    def has_work(self) -> bool:
        """Whether pages are to be read although no step may follow."""
        return bool(self.filled or self._ended)

    def fill(self, sequence: Sequence, group: int, registered: Iterable[tuple[int, bytes]]) -> None:
        """Notes pages, with their hashes, that a planned step fills."""
        store = self.store
        if store is None or sequence.retention == "drop":
            return
        for page, content in registered:
            if page_key(group, content) not in store:
                owner = _owner(sequence.cache_salt)
                self.filled.append(FilledPage(group, page, content, owner, sequence.request_id))

    def take_filled(self) -> list[FilledPage]:
        """The pages to read now, if the next step was not planned yet."""
        filled, self.filled = self.filled, []
        return filled

    def take_loads(self) -> list[PageLoad]:
        """The pages to write now."""
        loads, self.loads = self.loads, []
        return loads

    def end(self, sequence: Sequence, num_groups: int) -> None:
        """Notes that a sequence has ended: its prefix counts as used, its beginning last."""
        if self.store is not None:
            hashes = reversed(sequence.page_hashes)
            keys = [page_key(group, each) for each in hashes for group in range(num_groups)]
            self._ended.append((sequence.request_id, keys))

    def report_ended(self) -> None:
        """Tells the store, after it got what these sequences filled."""
        ended, self._ended = self._ended, []
        for request_id, keys in ended:
            assert self.store is not None
            self.store.ended(request_id, keys)

    def drop(self, salt: str | None = None) -> None:
        """Removes the stored pages under a salt, which may be wrong; None: all."""
        if self.store is not None:
            owner = None if salt is None else _owner(salt)
            self.filled = [each for each in self.filled if owner not in (None, each.owner)]
            self.store.drop(owner)

    def change_weights(self) -> None:
        """Other weights compute from now on."""
        if self.store is not None:
            self.filled.clear()
            self.store.change_weights()

    def free_memory(self) -> None:
        """Removes what is stored in the host's memory."""
        if self.store is not None:
            self.store.free_memory()

    def lose(self) -> None:
        """The device lost its pages."""
        self.filled.clear()
        self.loads.clear()


def by_group(
    loads: Iterable[PageLoad], num_groups: int
) -> tuple[list[list[int]], list[list[np.ndarray]]]:
    """The pages to write in each group, and the bytes of each."""
    pages: list[list[int]] = [[] for _ in range(num_groups)]
    contents: list[list[np.ndarray]] = [[] for _ in range(num_groups)]
    for each in loads:
        pages[each.group].append(each.page)
        contents[each.group].append(each.content)
    return pages, contents


def _owner(salt: str) -> str:
    """What pages under a salt are stored by: the salt itself may be a secret."""
    return hashlib.sha256(salt.encode()).hexdigest()[:32]
