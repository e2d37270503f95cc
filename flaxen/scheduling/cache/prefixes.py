"""Hashes the full pages of sequences, so that others find what they computed.

Deliberately does not know: the owners of pages, the scheduler's queues, JAX.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from flaxen.scheduling.cache.pages import extend_hashes, root_hash
from flaxen.scheduling.sequence import Sequence


class Prefixes:
    """The roots of the hash chains. A new root invalidates all pages under the old one.

    Args:
      page_size: tokens of a page.
      is_enabled: if False, no page has a hash.
    """

    def __init__(self, page_size: int, *, is_enabled: bool) -> None:
        self._page_size, self.is_enabled = page_size, is_enabled
        self.weights_version = 0
        self._num_drops = 0
        self._num_invalidated: Counter[str] = Counter()  # by cache salt

    def extend(self, sequence: Sequence) -> None:
        """Adds the missing hashes of a sequence's full pages of known tokens."""
        if self.is_enabled:
            hashes = sequence.page_hashes
            if not hashes:
                sequence.hash_epoch = self._epoch(sequence)
            parent = hashes[-1] if hashes else self._root(sequence)
            spans = sequence.prompt_embeds
            extend_hashes(hashes, sequence.tokens, self._page_size, parent, spans)

    def invalidate(self, salt: str, waiting: Iterable[Sequence]) -> None:
        """Invalidates the pages under a salt; waiting sequences are hashed again under the new
        root.
        """
        self._num_invalidated[salt] += 1
        for sequence in waiting:
            if sequence.cache_salt == salt:
                sequence.page_hashes.clear()
                sequence.fetched = None

    def invalidate_all(self, waiting: Iterable[Sequence]) -> None:
        """The same for all pages."""
        self._num_drops += 1
        for sequence in waiting:
            sequence.page_hashes.clear()
            sequence.fetched = None

    def is_current(self, sequence: Sequence) -> bool:
        """Whether a sequence's pages are found by those that come now: nothing invalidated them."""
        return sequence.hash_epoch == self._epoch(sequence)

    def _epoch(self, sequence: Sequence) -> tuple[int, int]:
        """What a sequence's root depends on beside its request."""
        # Neither number ever decreases, so their sum identifies the root.
        num_invalidated = self._num_drops + self._num_invalidated[sequence.cache_salt]
        return num_invalidated, self.weights_version

    def _root(self, sequence: Sequence) -> bytes:
        salt, adapter = sequence.cache_salt, sequence.adapter
        epoch, weights_version = self._epoch(sequence)
        return root_hash(
            salt,
            adapter="" if adapter is None else adapter.key,
            epoch=epoch,
            weights_version=weights_version,
        )
