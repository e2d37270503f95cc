"""The types for LoRA adapters that the engine and its users share.

Deliberately does not know: the contents of an adapter's weights or files. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class AdapterWeights(Protocol):
    """One LoRA adapter, from `flaxen.weights.adapters`; only the executor knows its contents."""

    @property
    def config(self) -> Any:
        """The adapter's rank, alpha and targets."""

    @property
    def layers(self) -> Any:
        """The matrices a and b of each layer's targets."""


@dataclass(frozen=True, kw_only=True)
class AdapterSource:
    """Reads an adapter's weights, as often as they are needed."""

    rank: int
    created: int  # seconds since 1970
    read: Callable[[], AdapterWeights]  # raises ValueError or OSError; may be called by any thread


@dataclass(frozen=True, kw_only=True)
class AdapterInfo:
    """One adapter of an engine, and where its weights are."""

    name: str
    rank: int
    created: int  # when it was loaded or trained, seconds since 1970
    is_on_device: bool  # otherwise a slot is filled from host memory when needed
    is_in_memory: bool = True  # host memory; otherwise it is read when a request names it
