"""Cache groups for tests."""

from __future__ import annotations

from collections.abc import Sequence

from flaxen.models.cache import CacheSpec, Full
from flaxen.scheduling.cache.groups import CacheGroup, group_layers

FULL = Full(num_kv_heads=1, head_dim=2)


def full(num_pages: int) -> tuple[CacheGroup, ...]:
    """One group, whose only layer keeps all tokens."""
    return groups([FULL], num_pages)


def groups(specs: Sequence[CacheSpec], num_pages: int) -> tuple[CacheGroup, ...]:
    """The groups of a model's layers, each with as many pages."""
    return tuple(
        CacheGroup(spec=spec, layers=layers, num_pages=num_pages)
        for spec, layers in group_layers(specs).items()
    )
