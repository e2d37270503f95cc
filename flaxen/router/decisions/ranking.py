"""Which decision wins: ranks by tier, priority and confidence, also where some are not known yet.

The order is the public reference's. By priority: the greatest, then the most confident. By
confidence: the most confident, then the greatest priority. Where a decision that matched has a
tier, the lowest tier comes first, then confidence and priority, whatever the strategy. Equals are
ordered by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from flaxen.router.decisions.bounds import ANYTHING, FALSE, TRUE, UNKNOWN, Bounds
from flaxen.router.decisions.tree import Node

Strategy = Literal["priority", "confidence"]
OnUnknown = Literal["no_match", "match", "fail_request"]
NOT_ASKED = Bounds(ANYTHING, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What makes a decision win.

    Attributes:
      tree: its conditions; None matches every request, with confidence 0.
      on_unknown: what it is where its tree is unknown: not matched, matched with confidence 0, or
        a reason to fail the request, unless another decision that matched comes before it even if
        this one were fully sure.
    """

    name: str
    priority: int = 0
    tier: int = 0
    tree: Node | None = None
    on_unknown: OnUnknown = "no_match"


class Standing(NamedTuple):
    """A decision's place in the ranking, as far as it is known: whether it is and may be in it,
    and between which confidences."""

    is_in: bool
    may_be_in: bool
    low: float
    high: float

    @property
    def is_known(self) -> bool:
        """Whether it is in the ranking or not, and with which confidence."""
        return not self.may_be_in or (self.is_in and self.low == self.high)


_Key = tuple[float | str, ...]
_BY_PRIORITY, _BY_CONFIDENCE, _BY_TIER = range(3)


def standing(rules: Rules, bounds: Bounds) -> Standing:
    """The place of a decision whose tree has these bounds."""
    counts_unknown = bounds.may_be & UNKNOWN and rules.on_unknown != "no_match"
    may_be_out = bounds.may_be & FALSE or (bounds.may_be & UNKNOWN and not counts_unknown)
    low, high = (bounds.low, bounds.high) if bounds.may_be & TRUE else (1.0, 0.0)
    if counts_unknown:
        confidence = 1.0 if rules.on_unknown == "fail_request" else 0.0
        low, high = min(low, confidence), max(high, confidence)
    may_be_in = bool(bounds.may_be & TRUE or counts_unknown)
    return Standing(not may_be_out, may_be_in, low, high)


class Ranking:
    """The ranking of a recipe's decisions for one request, while it becomes known."""

    def __init__(self, decisions: Sequence[Rules], strategy: Strategy) -> None:
        self._decisions = decisions
        self._mode = _BY_CONFIDENCE if strategy == "confidence" else _BY_PRIORITY
        self._has_tiers = any(rules.tier > 0 for rules in decisions)
        self.standings = [standing(rules, NOT_ASKED) for rules in decisions]

    def could_win(self) -> list[int]:
        """The indices of the decisions that can still be first, the most likely first."""
        found: dict[int, tuple[int, _Key]] = {}
        for mode in self._modes():
            bar = min(
                (self._key(i, mode, s.low) for i, s in enumerate(self.standings) if s.is_in),
                default=None,
            )
            for index, place in enumerate(self.standings):
                # One with a tier that is in makes tiers the order.
                is_possible = mode == _BY_TIER or self._decisions[index].tier == 0
                if place.may_be_in and is_possible:
                    best = self._key(index, mode, place.high)
                    if bar is None or best <= bar:
                        found.setdefault(index, (mode, best))
        return sorted(found, key=found.__getitem__)

    def decide_order(self) -> list[int]:
        """The indices of the decisions with a tier of which it is open whether they are in, while
        that decides by what the others are ordered."""
        if len(self._modes()) == 1:
            return []
        return [
            index
            for index, (rules, place) in enumerate(
                zip(self._decisions, self.standings, strict=True)
            )
            if rules.tier > 0 and place.may_be_in and not place.is_in
        ]

    def _modes(self) -> tuple[int, ...]:
        """By what the decisions that are in may be ordered."""
        if not self._has_tiers:
            return (self._mode,)
        tiered = [
            place
            for rules, place in zip(self._decisions, self.standings, strict=True)
            if rules.tier > 0
        ]
        if any(place.is_in for place in tiered):
            return (_BY_TIER,)
        return (self._mode, _BY_TIER) if any(p.may_be_in for p in tiered) else (self._mode,)

    def _key(self, index: int, mode: int, confidence: float) -> _Key:
        """What a decision is ordered by, the first having the least."""
        rules = self._decisions[index]
        if mode == _BY_PRIORITY:
            return (-rules.priority, -confidence, rules.name)
        if mode == _BY_CONFIDENCE:
            return (-confidence, -rules.priority, rules.name)
        return (rules.tier, -confidence, -rules.priority, rules.name)
