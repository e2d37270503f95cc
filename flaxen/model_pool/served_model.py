"""One of the models of a server: its names, and how it comes into memory.

Deliberately does not know when it is loaded, nor the other models.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from starlette.types import ASGIApp

from flaxen.model_pool.counters import Counters
from flaxen.protocol import EngineClient


class ModelState(enum.StrEnum):
    """Where a model is."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    LOADED = "loaded"
    FAILED = "failed"  # its last load failed; a later request tries again


class Loaded(Protocol):
    """A model in memory."""

    @property
    def engine(self) -> EngineClient:
        """The model's engine, which is closed when the model is unloaded."""

    @property
    def app(self) -> ASGIApp:
        """Answers the requests of this model, without the checks that all models share."""

    @property
    def can_chat(self) -> bool:
        """Whether the model has a chat template."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedModel:
    """A model that requests may name, in memory or not."""

    names: tuple[str, ...]  # the first is the main one
    adapters: tuple[str, ...]  # names of the adapters that are loaded with it
    root: str  # its own name
    max_model_len: int  # tokens
    created: int  # seconds since 1970
    num_bytes: int  # of weights and KV cache, once it is loaded
    stays: bool  # whether it is never unloaded
    counters: Counters  # of its engines
    load: Callable[[], Loaded]  # takes long, and may raise whatever a library raises

    @property
    def name(self) -> str:
        """The main name."""
        return self.names[0]
