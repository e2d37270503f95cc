"""What is filled in while a definition is run once.

Deliberately does not know operations: interpret.py and products.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flaxen.models.bridges.views import Axes, View
from flaxen.models.model import Attend, CacheSpec


@dataclass(frozen=True, kw_only=True)
class Use:
    """One way in which a definition uses a parameter."""

    leaf: int
    inputs: Axes = ()
    outputs: Axes = ()
    layers: int | None = None
    kind: str = "other"  # "product", "rows" of a table, or "other"


@dataclass(kw_only=True)
class Run:
    """What is filled in while a definition is run once."""

    token_shape: tuple[int, ...]  # of what the caller gave, [T] or [B, T]
    attend: Attend
    cache: Sequence[Any]  # an entry a layer; empty: there are as many as there turn out to be
    specs: list[CacheSpec] = field(default_factory=list)  # of the layers that were run
    entries: list[Any] = field(default_factory=list)  # of the new cache
    uses: list[Use] = field(default_factory=list)


def plain(run: Run, value: Any) -> Any:
    """An array, also of a view; then the parameter can't be packed."""
    if not isinstance(value, View):
        return value
    run.uses.append(Use(leaf=value.leaf))
    return value.array()
