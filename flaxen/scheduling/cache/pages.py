"""A pool of pages: their owners, and the prefix cache of pages that nobody owns.

Knows: page ids, reference counts, hashes of page contents, least-recently-used order.
Deliberately does not know: sequences, steps, the device, the KV arrays themselves, JAX.

Invariants (`check_invariants`):
  - A page is free or has owners; free + used is the number of pages.
  - A page has more than one owner only if each took it through the prefix cache.
  - A hash maps to exactly one page, and a page has at most one hash. A page with a hash may be
    free: its content stays until the page is allocated again.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence

from flaxen.protocol import EmbedSpan


def root_hash(
    cache_salt: str, *, adapter: str = "", epoch: int = 0, weights_version: int = 0
) -> bytes:
    """The parent hash of a first page: sequences share pages only if all arguments are equal.

    Args:
      cache_salt: the request's; keeps tenants apart.
      adapter: the key of the adapter that computed the pages; "" is the base model.
      epoch: how often the pages under this salt were invalidated.
      weights_version: that of the model's weights.
    """
    root = (adapter, cache_salt, epoch, weights_version)
    return hashlib.sha256(repr(root).encode()).digest()


def page_hash(parent: bytes, token_ids: Iterable[int], contents: bytes = b"") -> bytes:
    """The hash of a full page: of everything that its keys depend on, which is the pages before it,
    its own tokens, and the embeddings that stand in the place of some of them.

    The hash is cryptographic, because a collision would show one user's tokens to another.
    """
    return hashlib.sha256(parent + array("q", token_ids).tobytes() + contents).digest()


def extend_hashes(
    hashes: list[bytes],
    tokens: list[int],
    page_size: int,
    parent: bytes,
    spans: Sequence[EmbedSpan] = (),
) -> None:
    """Appends the missing hashes of the full pages of `tokens`. Mutates `hashes`.

    Args:
      hashes: those that are there.
      tokens: the known tokens.
      page_size: tokens in a page.
      parent: the last of `hashes`; the root if it is empty.
      spans: embeddings that stand in the place of tokens.
    """
    for start in range(len(hashes) * page_size, len(tokens) - page_size + 1, page_size):
        end = start + page_size
        contents = _contents(spans, start, end) if spans else b""
        parent = page_hash(parent, tokens[start:end], contents)
        hashes.append(parent)


def _contents(spans: Sequence[EmbedSpan], start: int, end: int) -> bytes:
    """Encodes which embeddings a page holds, and where; empty if it holds none."""
    found = [
        (span.start - start, span.end - start, span.content_hash)
        for span in spans
        if span.start < end and span.end > start
    ]
    return repr(found).encode() if found else b""


class PagePool:
    """Allocates pages, and finds pages that already hold a prefix.

    Free pages without a hash are allocated first, since they hold nothing, then those with one,
    least recently used first, and last those that are kept for somebody who will be back. Of those
    without a hash, pages that were used before come before those that never were, which take no
    memory yet on the CPU. A sequence's pages are freed tail first, so that the head of a prefix,
    which more sequences share, stays longer than its tail.

    Args:
      num_pages: pages in the pool, at least 1; their ids are 0 to num_pages - 1.
      enable_prefix_caching: if False, nothing is registered or found.
      on_removed: called with the hash of a page that is allocated for something else.

    Raises:
      ValueError: num_pages is below 1.
    """

    def __init__(
        self,
        num_pages: int,
        *,
        enable_prefix_caching: bool = True,
        on_removed: Callable[[bytes], None] | None = None,
    ) -> None:
        if num_pages < 1:
            raise ValueError(
                f"num_pages must be at least 1, got {num_pages}: a sequence needs a page"
            )
        self.num_pages = num_pages
        self.enable_prefix_caching = enable_prefix_caching
        self._on_removed = on_removed
        self._num_owners = [0] * num_pages
        self._hash_of: list[bytes | None] = [None] * num_pages
        self._page_of: dict[bytes, int] = {}
        self._num_keepers: Counter[bytes] = Counter()  # of a hash, whether a page has it or not
        # The free pages, in the order of allocation. Any page can be removed in O(1), which a
        # prefix hit needs. (A plain dict finds its first key in O(n) after many removals.)
        self._empty: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_pages))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._kept: OrderedDict[int, None] = OrderedDict()

    @property
    def num_free(self) -> int:
        """Pages without an owner, including those in the prefix cache."""
        return len(self._empty) + len(self._cached) + len(self._kept)

    @property
    def num_used(self) -> int:
        """Pages with at least one owner."""
        return self.num_pages - self.num_free

    @property
    def num_kept(self) -> int:
        """Hashes that somebody keeps."""
        return len(self._num_keepers)

    def allocate(self, num: int) -> list[int]:
        """Takes `num` free pages; each gets one owner and no hash. There must be enough."""
        assert num <= self.num_free, f"{num} pages are allocated, but {self.num_free} are free"
        pages = [
            (self._empty or self._cached or self._kept).popitem(last=False)[0] for _ in range(num)
        ]
        for page in pages:
            self._num_owners[page] = 1
            content = self._hash_of[page]
            if content is not None:
                self._hash_of[page] = None
                del self._page_of[content]
                if self._on_removed is not None:
                    self._on_removed(content)
        return pages

    def retain(self, pages: Iterable[int]) -> int:
        """Adds an owner to pages found by `lookup`. Returns how many of them were free."""
        num_free = self.num_free
        for page in pages:
            if self._num_owners[page] == 0:
                del self._queue(page)[page]
            self._num_owners[page] += 1
        return num_free - self.num_free

    def release(self, pages: list[int]) -> int:
        """Removes one owner from each of a sequence's pages, given in the sequence's order.

        Returns:
          How many of these pages are free now.
        """
        num_free = self.num_free
        for page in reversed(pages):
            assert self._num_owners[page] > 0, f"page {page} is released, but nobody owns it"
            self._num_owners[page] -= 1
            if self._num_owners[page] == 0:
                self._queue(page)[page] = None
                if self._hash_of[page] is None:
                    self._empty.move_to_end(page, last=False)
        return self.num_free - num_free

    def num_not_kept(self, hashes: Iterable[bytes]) -> int:
        """How many of these hashes nobody keeps."""
        return sum(content not in self._num_keepers for content in hashes)

    def keep(self, hashes: Iterable[bytes]) -> None:
        """Lets pages with these hashes be allocated after all others, until `unkeep`."""
        for content in hashes:
            page = self._page_of.get(content)
            if page in self._cached and page is not None:
                del self._cached[page]
                self._kept[page] = None
            self._num_keepers[content] += 1

    def unkeep(self, hashes: Iterable[bytes]) -> None:
        """Takes a `keep` back, with the hashes in a sequence's order: pages that nobody else keeps
        are allocated before other cached ones, the sequence's last ones first.
        """
        for content in hashes:
            self._num_keepers[content] -= 1
            if self._num_keepers[content] == 0:
                del self._num_keepers[content]
                page = self._page_of.get(content)
                if page in self._kept and page is not None:
                    del self._kept[page]
                    self._cached[page] = None
                self.demote([content])

    def demote(self, hashes: Iterable[bytes]) -> None:
        """Lets free pages with these hashes, in a sequence's order, be allocated before other
        cached ones, unless somebody keeps them.
        """
        for content in hashes:
            page = self._page_of.get(content)
            if page is not None and page in self._cached:
                self._cached.move_to_end(page, last=False)

    def _queue(self, page: int) -> OrderedDict[int, None]:
        """The free pages that a page without owners is among."""
        content = self._hash_of[page]
        if content is None:
            return self._empty
        return self._kept if content in self._num_keepers else self._cached

    def lookup(self, hashes: Iterable[bytes]) -> list[int]:
        """Finds the pages of the longest cached prefix of a hash chain. Changes nothing: see
        `retain`.
        """
        pages = []
        for content in hashes:
            page = self._page_of.get(content)
            if page is None:
                break
            pages.append(page)
        return pages

    def find(self, content: bytes) -> int | None:
        """The page with this hash; None if there is none."""
        return self._page_of.get(content)

    def holds(self, content: bytes) -> bool:
        """Whether some page has this hash."""
        return content in self._page_of

    def register(self, pages: list[int], hashes: list[bytes]) -> list[tuple[int, bytes]]:
        """Registers owned pages under their hashes, unless another page has the same hash. Returns
        those that it registered.
        """
        if not self.enable_prefix_caching:
            return []
        found = []
        for page, content in zip(pages, hashes, strict=True):
            assert self._num_owners[page] > 0, f"page {page} is registered, but nobody owns it"
            assert self._hash_of[page] is None, f"page {page} is registered twice"
            if content not in self._page_of:
                self._hash_of[page] = content
                self._page_of[content] = page
                found.append((page, content))
        return found

    def reset_cache(self) -> None:
        """Removes all hashes, because the pages' contents were lost or must not be found again."""
        for page in self._page_of.values():
            self._hash_of[page] = None
        for page in (*self._cached, *self._kept):
            self._empty[page] = None
            # Before pages that were never used and take no memory yet.
            self._empty.move_to_end(page, last=False)
        self._page_of.clear()
        self._cached.clear()
        self._kept.clear()

    def check_invariants(self) -> None:
        """Asserts the invariants of this module's docstring. Slow: for tests."""
        for page, num_owners in enumerate(self._num_owners):
            assert num_owners >= 0, f"page {page} has {num_owners} owners"
            queues = [each for each in (self._empty, self._cached, self._kept) if page in each]
            free_in = [self._queue(page)] if num_owners == 0 else []
            assert queues == free_in, f"page {page}: owned, or free, or in the wrong queue?"
        assert self.num_free + self.num_used == self.num_pages
        by_page = {page: content for page, content in enumerate(self._hash_of) if content}
        assert {content: page for page, content in by_page.items()} == self._page_of
        assert len(by_page) == len(self._page_of), "two pages have the same hash"
        assert min(self._num_keepers.values(), default=1) > 0
        assert self.enable_prefix_caching or not by_page, "a hash, but prefix caching is off"
