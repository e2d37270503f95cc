"""A request that was checked: what `Engine.check` returns and `Engine.add` takes.

Deliberately does not know JAX, or how a request is checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flaxen.protocol import Request
from flaxen.scheduling.adapters.store import ServedAdapter
from flaxen.structured.states import GrammarState


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedRequest:
    """A request that an engine can serve, with the results of its check."""

    request: Request
    adapter: ServedAdapter | None  # unloading its name does not affect this request
    grammars: tuple[GrammarState, ...]  # one for each of the n sequences, or none
    row_settings: Any  # from the executor, for the row of each of the request's sequences
