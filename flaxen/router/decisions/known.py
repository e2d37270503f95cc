"""Known: what is known of one request's signals so far, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from flaxen.router.decisions.bounds import (
    ANYTHING,
    FALSE,
    IS_FALSE,
    IS_UNKNOWN,
    TRUE,
    UNKNOWN,
    Bounds,
)
from flaxen.router.decisions.projections import Mapping as ScoreMapping
from flaxen.router.decisions.projections import Partition, Projections, Score, ScoreInput
from flaxen.router.decisions.tree import PROJECTION, Leaf, SignalKey
from flaxen.router.signals.found import Found, unknown
from flaxen.router.signals.predicate import Predicate

Find = Callable[[SignalKey], Found | None]


class Range(NamedTuple):
    """Between which numbers a score is, and the signals that are missing to know it better."""

    low: float
    high: float
    missing: tuple[SignalKey, ...] = ()


class Known:
    """What signals found, asked for as it is needed.

    Not for several threads at once.

    Args:
      projections: what is computed of the signals.
      find: what a rule finds where that costs nothing, or None if a model must run for it. It is
        called once for each key.
    """

    def __init__(self, projections: Projections, find: Find) -> None:
        self._projections = projections
        self._find = find
        self._found: dict[SignalKey, Found | None] = {}
        self._partition_of = projections.partition_of
        self._score_of = projections.score_of
        self._mapping_of = projections.mapping_of

    def give(self, found: Mapping[SignalKey, Found]) -> None:
        """Takes what models found."""
        self._found.update(found)

    @property
    def found(self) -> dict[SignalKey, Found]:
        """All that signals found so far, before partitions."""
        return {key: found for key, found in self._found.items() if found is not None}

    def without_asking(self) -> Known:
        """The same, as it is now: it asks for nothing more."""
        copy = Known(self._projections, lambda key: None)
        copy._found = dict(self._found)
        return copy

    def score_behind(self, output: str) -> Range:
        """The score that an output of a mapping is a range of."""
        mapping, _ = self._mapping_of[output]
        return self._score(self._score_of[mapping.source])

    def leaf(self, leaf: Leaf, exact: bool) -> Bounds:
        """The bounds of a condition.

        Args:
          exact: whether signals that would only make its confidence exact count as missing.
        """
        if leaf.key.kind == PROJECTION:
            bounds = self._output(leaf.key.name, exact)
        else:
            bounds = self._signal(leaf.key, leaf.predicate)
        if leaf.if_unknown is None or not bounds.may_be & UNKNOWN:
            return bounds
        may_be = bounds.may_be & ~UNKNOWN | (TRUE if leaf.if_unknown else FALSE)
        low, high = (1.0, 1.0) if bounds.may_be == UNKNOWN else (bounds.low, 1.0)
        return bounds._replace(may_be=may_be, low=low, high=high)

    def _signal(self, key: SignalKey, predicate: Predicate | None) -> Bounds:
        found, missing = self._resolved(key)
        if found is None:
            return Bounds(ANYTHING, 0.0 if predicate is None else 1.0, 1.0, missing)
        if found.matched is None:
            return IS_UNKNOWN
        if predicate is None:
            return Bounds(TRUE, found.confidence, found.confidence) if found.matched else IS_FALSE
        value = found.value
        if value is None and found.matched:
            value = found.confidence
        if value is None:
            return IS_FALSE
        if math.isnan(value):
            return IS_UNKNOWN
        return Bounds(TRUE, 1.0, 1.0) if predicate.holds(value) else IS_FALSE

    def _raw(self, key: SignalKey) -> Found | None:
        if key not in self._found:
            self._found[key] = self._find(key)
        return self._found[key]

    def _resolved(self, key: SignalKey) -> tuple[Found | None, tuple[SignalKey, ...]]:
        """What a signal found after its partition, or None and what is missing for that."""
        partition = self._partition_of.get(key)
        if partition is None:
            found = self._raw(key)
            return found, (key,) if found is None else ()
        members = {member: self._raw(member) for member in partition.members}
        missing = tuple(member for member, found in members.items() if found is None)
        if missing:
            return None, missing
        return _of_partition(
            partition, {member: found for member, found in members.items() if found}, key
        ), ()

    def _output(self, name: str, exact: bool) -> Bounds:
        """The bounds of an output: its range's, and for the first hit those before it."""
        mapping, index = self._mapping_of[name]
        score = self.score_behind(name)
        may_be = _may_hold(mapping.outputs[index].within, score)
        if not mapping.emits_all:
            for earlier in mapping.outputs[:index]:
                before = _may_hold(earlier.within, score)
                if before == TRUE:
                    return IS_FALSE
                if before & TRUE:
                    may_be |= FALSE
        if may_be == FALSE:
            return IS_FALSE
        if may_be == TRUE:
            low, high = _confidences(mapping, index, score)
            return Bounds(TRUE, low, high, score.missing if exact and low < high else ())
        return Bounds(ANYTHING, 0.5, 1.0, score.missing) if score.missing else IS_UNKNOWN

    def _score(self, score: Score) -> Range:
        low = high = 0.0
        missing: tuple[SignalKey, ...] = ()
        for term in score.inputs:
            part = self._term(term)
            missing += part.missing
            if term.weight == 0:
                continue
            ends = (term.weight * part.low, term.weight * part.high)
            low += min(ends)
            high += max(ends)
        return Range(low, high, missing)

    def _term(self, term: ScoreInput) -> Range:
        if term.key.kind == PROJECTION:
            if term.source != "confidence":
                return self._score(self._score_of[term.key.name])
            bounds = self._output(term.key.name, exact=True)
            low = bounds.low if bounds.may_be == TRUE else 0.0
            high = bounds.high if bounds.may_be & TRUE else 0.0
            return Range(low, 1.0 if bounds.may_be == UNKNOWN else high, bounds.missing)
        found, missing = self._resolved(term.key)
        if found is None or found.matched is None:
            if term.source == "raw":
                return Range(-math.inf, math.inf, missing)
            values = (term.match, term.miss) if term.source == "binary" else (0.0, 1.0)
            return Range(min(values), max(values), missing)
        if term.source == "raw":
            value = found.value or 0.0
            return Range(value, value) if math.isfinite(value) else Range(-math.inf, math.inf)
        if term.source == "confidence":
            value = found.confidence if found.matched else 0.0
        else:
            value = term.match if found.matched else term.miss
        return Range(value, value)


def _of_partition(
    partition: Partition, members: Mapping[SignalKey, Found], key: SignalKey
) -> Found:
    """What a member of a partition found, after the others.

    Where a member is unknown, nobody knows which would stay: those that matched and the default
    are unknown too.
    """
    found = members[key]
    if any(member.matched is None for member in members.values()):
        if found.matched is False and key != partition.default:
            return found
        return unknown(f"another signal of the partition {partition.name} is unknown")
    contenders = [member for member in partition.members if members[member].matched]
    if not contenders:
        if key != partition.default:
            return found
        return Found(matched=True, value=found.value, reason=f"the default of {partition.name}")
    winner = max(contenders, key=lambda member: members[member].confidence)  # the first of equals
    if key != winner:
        return Found(matched=False, value=found.value, reason=f"{winner} stays of {partition.name}")
    if partition.temperature is None or len(contenders) == 1:
        return found
    top = found.confidence
    total = sum(
        math.exp((members[member].confidence - top) / partition.temperature)
        for member in contenders
    )
    return Found(matched=True, confidence=1 / total, value=found.value, reason=found.reason)


def _may_hold(predicate: Predicate | None, score: Range) -> int:
    """Which of true and false a predicate can be over a range."""
    if predicate is None or (predicate.holds(score.low) and predicate.holds(score.high)):
        return TRUE
    is_above = predicate.gt is None or score.high > predicate.gt
    is_above &= predicate.gte is None or score.high >= predicate.gte
    is_below = predicate.lt is None or score.low < predicate.lt
    is_below &= predicate.lte is None or score.low <= predicate.lte
    return TRUE | FALSE if is_above and is_below else FALSE


def _confidences(mapping: ScoreMapping, index: int, score: Range) -> tuple[float, float]:
    """Between which confidences an output is whose range the score is in. What can't be known
    better counts as the least of them; inside a range that is at one of the ends."""
    low = min(_confidence(mapping, index, end) for end in (score.low, score.high))
    return low, low if score.low == score.high or not score.missing else 1.0


def _confidence(mapping: ScoreMapping, index: int, score: float) -> float:
    """A logistic curve of the score's distance to the nearest bound of an output's range."""
    within = mapping.outputs[index].within
    bounds = [] if within is None else within.bounds
    distance = min((abs(score - bound) for _, bound in bounds), default=1.0)
    return 1 / (1 + math.exp(-mapping.slope * distance))
