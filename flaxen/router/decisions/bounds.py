"""Bounds: what the value of a node can still be, and how sure it can be.

A node whose signals are all known has one value, and the rules here are those of the public
reference and of Kleene: false AND unknown is false, true OR unknown is true, NOT unknown is
unknown. The confidence of a true AND is the mean of its children's, of an OR the greatest of its
true ones, of a NOT 1. While signals are missing, the same rules hold for the sets of what they may
be, which is why a tree's value can be certain before all of them are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from flaxen.router.decisions.tree import SignalKey

TRUE, FALSE, UNKNOWN = 1, 2, 4  # the bits of Bounds.may_be
ANYTHING = TRUE | FALSE | UNKNOWN


class Bounds(NamedTuple):
    """What a node can still be.

    Attributes:
      may_be: the values that it may have, as bits.
      low, high: between which its confidence is, if it is true.
      missing: the signals that are not computed yet and that can change this.
    """

    may_be: int
    low: float = 0.0
    high: float = 0.0
    missing: tuple[SignalKey, ...] = ()

    @property
    def is_certain(self) -> bool:
        """Whether the value is known. The confidence may still be open."""
        return self.may_be in (TRUE, FALSE, UNKNOWN)


IS_FALSE = Bounds(FALSE)
IS_UNKNOWN = Bounds(UNKNOWN)


def all_of(parts: Sequence[Bounds]) -> Bounds:
    """The bounds of an AND over its children's."""
    may_be = TRUE
    for part in parts:
        if part.may_be == FALSE:
            return IS_FALSE
        if not part.may_be & TRUE:
            may_be &= ~TRUE
        may_be |= part.may_be & (FALSE | UNKNOWN)
    if not may_be & TRUE:
        return Bounds(may_be, missing=() if may_be == UNKNOWN else _joined(parts))
    num = len(parts) or 1
    low = sum(part.low for part in parts) / num
    high = sum(part.high for part in parts) / num
    return Bounds(may_be, low, high, _joined(parts))


def some_of(parts: Sequence[Bounds]) -> Bounds:
    """The bounds of an OR over its children's."""
    certain = [part for part in parts if part.may_be == TRUE]
    possible = [part for part in parts if part.may_be & TRUE]
    high = max((part.high for part in possible), default=0.0)
    if certain:
        low = max(part.low for part in certain)
        return Bounds(TRUE, low, high, _joined([part for part in possible if part.high > low]))
    may_be = TRUE if possible else 0
    for part in parts:
        may_be |= part.may_be & UNKNOWN
    if all(part.may_be & FALSE for part in parts):
        may_be |= FALSE
    if may_be in (FALSE, UNKNOWN):
        return Bounds(may_be)
    low = min((part.low for part in possible), default=0.0)
    return Bounds(may_be, low, high, _joined(parts))


def none_of(part: Bounds) -> Bounds:
    """The bounds of a NOT over its child's."""
    may_be = part.may_be & UNKNOWN
    if part.may_be & TRUE:
        may_be |= FALSE
    if part.may_be & FALSE:
        may_be |= TRUE
    missing = () if part.is_certain else part.missing
    return Bounds(may_be, 1.0, 1.0, missing) if may_be & TRUE else Bounds(may_be, missing=missing)


def _joined(parts: Sequence[Bounds]) -> tuple[SignalKey, ...]:
    return tuple(key for part in parts for key in part.missing)
