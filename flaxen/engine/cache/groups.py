"""Cache groups: the layers whose caches are alike share a pool of pages.

Deliberately does not know: JAX, who owns a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flaxen.models.cache import CacheSpec


@dataclass(frozen=True, kw_only=True)
class CacheGroup:
    """Layers with equal specs, and the size of their pool.

    A page of the group is the room for page_size tokens in each of its layers. Of a State it is the
    room for one sequence.
    """

    spec: CacheSpec
    layers: tuple[int, ...]
    num_pages: int


def group_layers(specs: Sequence[CacheSpec]) -> dict[CacheSpec, tuple[int, ...]]:
    """The layers that have each spec, in the order of the groups: by the first of these layers."""
    layers: dict[CacheSpec, tuple[int, ...]] = {}
    for layer, spec in enumerate(specs):
        layers[spec] = (*layers.get(spec, ()), layer)
    return layers
