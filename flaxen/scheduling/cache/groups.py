"""Cache groups: layers with equal cache specs share a pool of pages.

Knows: which pages a sequence needs, given the kind of cache.
Deliberately does not know: JAX, the owners of pages, when a step is planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flaxen.models.cache import CacheSpec, Sliding, State


@dataclass(frozen=True, kw_only=True)
class CacheGroup:
    """Layers with equal specs, and the size of their pool.

    A page of the group holds page_size tokens in each of its layers; a page of a State holds one
    sequence.
    """

    spec: CacheSpec
    layers: tuple[int, ...]
    num_pages: int

    @property
    def window(self) -> int | None:
        """The number of tokens that a token sees, itself included; None for all."""
        return self.spec.window if isinstance(self.spec, Sliding) else None

    @property
    def keeps_tokens(self) -> bool:
        """Whether each token has its own slot in a page; a State holds a summary of all tokens."""
        return not isinstance(self.spec, State)


def group_layers(specs: Sequence[CacheSpec]) -> dict[CacheSpec, tuple[int, ...]]:
    """Maps each spec to its layers, ordered by the first of these layers."""
    layers: dict[CacheSpec, tuple[int, ...]] = {}
    for layer, spec in enumerate(specs):
        layers[spec] = (*layers.get(spec, ()), layer)
    return layers


def page_bytes(spec: CacheSpec, num_layers: int, page_size: int, itemsize: int) -> int:
    """The bytes of one page in all layers of a group.

    Args:
      spec: the group's spec.
      num_layers: the number of the group's layers.
      page_size: tokens.
      itemsize: bytes of one number of keys and values.
    """
    if isinstance(spec, State):
        return num_layers * spec.bytes_per_sequence
    return num_layers * page_size * spec.bytes_per_token(itemsize)


def first_page(window: int | None, position: int, page_size: int) -> int:
    """The index of a sequence's first page that the token at a position reads."""
    return 0 if window is None else max(0, position - window + 1) // page_size


def most_pages(spec: CacheSpec, num_tokens: int, chunk: int, page_size: int) -> int:
    """The most pages that a sequence owns at any time until it has `num_tokens`.

    Args:
      spec: of the group.
      num_tokens: at least 1.
      chunk: the most tokens that a step computes.
      page_size: tokens.
    """
    if isinstance(spec, State):
        return 1
    num_pages = -(-num_tokens // page_size)
    if not isinstance(spec, Sliding):
        return num_pages
    # The window of the chunk's first token, and the chunk; both may begin anywhere in a page.
    num_live = spec.window - 1 + chunk
    return min(num_pages, (num_live + page_size - 2) // page_size + 1)
