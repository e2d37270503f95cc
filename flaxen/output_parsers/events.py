"""What a generated text is made of.

Deliberately does not know: how a model writes any of it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of the answer's text, not empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of the model's thoughts before its answer, not empty."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A whole call. A call that the text breaks off is content (decision 0322)."""

    name: str
    arguments: str  # the text of an object of JSON
    id: str | None = None  # where the model itself numbers its calls


Event = Content | Reasoning | ToolCall
