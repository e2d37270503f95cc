"""Found: what one rule of a signal found in one request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entity:
    """A piece of personal data that a signal found: its kind, such as EMAIL_ADDRESS, and its text
    exactly as it stands in the request."""

    kind: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """The result of one rule for one request.

    Attributes:
      matched: whether the rule holds; None if that is unknown, because the signal failed, timed
        out, or can't read this request.
      confidence: how sure the signal is, in [0, 1]; it counts only where matched is True.
      value: the number behind the answer, which predicates and projections read (a cosine, a
        count); None if the signal has none.
      reason: what matched, or why it is unknown: a text for explanations only.
      entities: the personal data that made the rule match; empty for other signals.
    """

    matched: bool | None
    confidence: float = 1.0
    value: float | None = None
    reason: str = ""
    entities: tuple[Entity, ...] = ()


NOT_MATCHED = Found(matched=False)


def unknown(reason: str) -> Found:
    """What a rule found whose signal could not be computed; reason says why."""
    return Found(matched=None, confidence=0.0, reason=reason)
