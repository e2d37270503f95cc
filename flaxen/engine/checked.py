"""A request that was checked: what `Engine.check` returns and `Engine.add` takes.

Deliberately does not know JAX, or how a request is checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flaxen.engine.adapters.store import ServedAdapter
from flaxen.protocol import Request


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedRequest:
    """A request that an engine can serve, with what was found out when it was checked."""

    request: Request
    adapter: ServedAdapter | None  # kept: unloading its name changes nothing for this request
    row_settings: Any  # the executor's, for the row of each of the request's sequences
