"""What the rules of all kinds check alike. The reader of a configuration adds the rule's place."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass


def check_name(name: str, what: str = "name") -> None:
    """Raises ValueError unless a name has characters, and no white space around them."""
    if not name or name != name.strip():
        raise ValueError(
            f"{what} {name!r} must have characters, and no white space around them: decisions "
            "refer to it"
        )


@dataclass(frozen=True, kw_only=True)
class NamedRule:
    """What rules of most kinds have: a name that decisions refer to, and what it is for."""

    name: str
    description: str = ""

    def __post_init__(self) -> None:
        check_name(self.name)


def check_choice(value: str, what: str, choices: Collection[str]) -> None:
    """Raises ValueError unless a value is one of the choices."""
    if value not in choices:
        known = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{what} {value!r} is not known: give one of {known}")


def check_range(value: float, what: str, low: float, high: float) -> None:
    """Raises ValueError unless a number is finite and from low to high."""
    if not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{what} must be from {low:g} to {high:g}, got {value}")


def check_texts(texts: Sequence[str], what: str, at_least: int = 1) -> None:
    """Raises ValueError unless there are enough texts, none of them blank."""
    if len(texts) < at_least:
        raise ValueError(f"{what} must have at least {at_least}, got {len(texts)}")
    if not all(text.strip() for text in texts):
        raise ValueError(f"{what} has a blank text, which says nothing: remove it")


def check_unique(texts: Sequence[str], what: str) -> None:
    """Raises ValueError if a text stands twice."""
    twice = next((text for i, text in enumerate(texts) if text in texts[:i]), None)
    if twice is not None:
        raise ValueError(f"{what} has {twice!r} twice: remove one")
