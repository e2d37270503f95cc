"""A fact about a server that starts: a line for a reader, and fields for a program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One line of the announcement."""

    label: str
    text: str
    fields: dict[str, Any]
