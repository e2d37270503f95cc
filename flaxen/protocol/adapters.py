"""The words for LoRA adapters that the front half and the engine speak to each other.

Deliberately does not know: what is in an adapter's weights or files. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class AdapterWeights(Protocol):
    """One LoRA adapter as `flaxen.weights.adapters` reads it; its server knows its inside."""

    @property
    def config(self) -> Any:
        """Rank, alpha and targets."""

    @property
    def layers(self) -> Any:
        """The factors of each layer's targets."""


@dataclass(frozen=True, kw_only=True)
class AdapterSource:
    """Where an adapter's weights are read from, as often as they are needed."""

    rank: int
    created: int  # seconds since 1970
    read: Callable[[], AdapterWeights]  # raises ValueError or OSError; any thread calls


@dataclass(frozen=True, kw_only=True)
class AdapterInfo:
    """One adapter that an engine knows, and where its weights are."""

    name: str
    rank: int
    created: int  # when it was loaded or made, seconds since 1970
    is_on_device: bool  # else a slot is filled from the host's memory when needed
    is_in_memory: bool = True  # of the host; else it is read when a request names it
