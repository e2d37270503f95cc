"""Cache groups: the layers whose caches are alike share a pool of pages.

Knows: which pages a sequence needs, given the kind of cache.
Deliberately does not know: JAX, who owns a page, when a step is planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flaxen.models.cache import CacheSpec, Sliding, State


@dataclass(frozen=True, kw_only=True)
class CacheGroup:
    """Layers with equal specs, and the size of their pool.

    A page of the group is the room for page_size tokens in each of its layers. Of a State it is the
    room for one sequence.
    """

    spec: CacheSpec
    layers: tuple[int, ...]
    num_pages: int

    @property
    def window(self) -> int | None:
        """How many tokens a token sees, itself included; None sees all."""
        return self.spec.window if isinstance(self.spec, Sliding) else None

    @property
    def keeps_tokens(self) -> bool:
        """Whether pages hold tokens, each at its own place; a State holds their sum."""
        return not isinstance(self.spec, State)


def group_layers(specs: Sequence[CacheSpec]) -> dict[CacheSpec, tuple[int, ...]]:
    """The layers that have each spec, in the order of the groups: by the first of these layers."""
    layers: dict[CacheSpec, tuple[int, ...]] = {}
    for layer, spec in enumerate(specs):
        layers[spec] = (*layers.get(spec, ()), layer)
    return layers


def page_bytes(spec: CacheSpec, num_layers: int, page_size: int, itemsize: int) -> int:
    """Bytes of one page in all layers of a group.

    Args:
      spec: of the group.
      num_layers: of the group.
      page_size: tokens.
      itemsize: bytes of one number.
    """
    if isinstance(spec, State):
        return num_layers * spec.bytes_per_sequence(itemsize)
    return num_layers * page_size * spec.bytes_per_token(itemsize)


def first_page(window: int | None, position: int, page_size: int) -> int:
    """The index of the first page of a sequence that its token at a position reads."""
    return 0 if window is None else max(0, position - window + 1) // page_size


def most_pages(spec: CacheSpec, num_tokens: int, chunk: int, page_size: int) -> int:
    """How many pages a sequence owns at most on its way to `num_tokens`.

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
    # What the first token of a chunk sees, and the chunk, beginning anywhere in a page.
    num_live = spec.window - 1 + chunk
    return min(num_pages, (num_live + page_size - 2) // page_size + 1)
