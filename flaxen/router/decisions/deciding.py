"""Deciding: finds the decision that wins for one request, with as few signals as that takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flaxen.router.decisions.bounds import TRUE, UNKNOWN, Bounds
from flaxen.router.decisions.known import Find, Known
from flaxen.router.decisions.projections import Projections
from flaxen.router.decisions.ranking import Ranking, Rules, Strategy, standing
from flaxen.router.decisions.tree import SignalKey
from flaxen.router.decisions.walk import bounds_of
from flaxen.router.signals.found import Found

_NO_PROJECTIONS = Projections()


@dataclass(frozen=True, kw_only=True)
class Decided:
    """How a request was decided.

    Attributes:
      rules: those of the decision that won; None if none matched.
      confidence: of its tree, in [0, 1].
      is_unknown: whether its tree is unknown, so that it won by its on_unknown.
      fails: whether the request must be refused: is_unknown, and on_unknown says so.
      unknown: the signals that are unknown, of all that were asked for.
    """

    rules: Rules | None
    confidence: float = 0.0
    is_unknown: bool = False
    fails: bool = False
    unknown: tuple[SignalKey, ...] = ()


class Deciding:
    """The evaluation of one request.

    `advance` asks `find` for what it answers without a model, one signal after the other and only
    while the signal can change who wins or how sure that is, and returns the signals that a model
    must compute. `give` takes them. Once `advance` returns none, `decided` is the same as if all
    signals had been computed.

    Not for several threads at once.

    Args:
      decisions: a recipe's, with unique names.
      find: as in Known.
    """

    def __init__(
        self,
        decisions: Sequence[Rules],
        find: Find,
        strategy: Strategy = "priority",
        projections: Projections = _NO_PROJECTIONS,
    ) -> None:
        self.decisions = decisions
        self.known = Known(projections, find)
        self._ranking = Ranking(decisions, strategy)
        self._bounds: dict[int, Bounds] = {}
        self._is_walked: set[tuple[int, bool]] = set()

    def advance(self) -> frozenset[SignalKey]:
        """Finds what it can without a model.

        Returns:
          The signals that a model must compute, each of which can still change the outcome; none
          once the request is decided.
        """
        while True:
            asked = self._open()
            new = [
                (index, exact) for index, exact in asked if (index, exact) not in self._is_walked
            ]
            if not new:
                return frozenset(key for index, _ in asked for key in self._bounds[index].missing)
            for index, exact in new:
                self._walk(index, exact)
                if self._ranking.standings[index].is_in:
                    break  # it may come before all that follow

    def give(self, found: Mapping[SignalKey, Found]) -> None:
        """Takes signals that models computed."""
        self.known.give(found)
        self._is_walked.clear()

    def decided(self) -> Decided:
        """The outcome, once `advance` has returned no signals."""
        unknown = tuple(
            sorted(key for key, found in self.known.found.items() if found.matched is None)
        )
        first = self._ranking.could_win()
        if not first:
            return Decided(rules=None, unknown=unknown)
        rules, bounds = self.decisions[first[0]], self._bounds[first[0]]
        is_unknown = bounds.may_be == UNKNOWN
        return Decided(
            rules=rules,
            confidence=0.0 if is_unknown else bounds.low,
            is_unknown=is_unknown,
            fails=is_unknown and rules.on_unknown == "fail_request",
            unknown=unknown,
        )

    def _open(self) -> list[tuple[int, bool]]:
        """The decisions that can still change the outcome, and whether only by their confidence."""
        first = self._ranking.could_win()
        places = self._ranking.standings
        if len(first) == 1 and places[first[0]].is_in:
            index = first[0]
            is_exact = self._bounds[index].is_certain and places[index].is_known
            return [] if is_exact else [(index, self._is_true(index))]
        others = [index for index in self._ranking.decide_order() if index not in first]
        unknown = [index for index in (*first, *others) if not places[index].is_known]
        by_value = [(index, False) for index in unknown if not self._is_true(index)]
        return by_value or [(index, True) for index in unknown]

    def _is_true(self, index: int) -> bool:
        return index in self._bounds and self._bounds[index].may_be == TRUE

    def _walk(self, index: int, exact: bool) -> None:
        self._is_walked.add((index, exact))
        self._bounds[index] = bounds_of(self.decisions[index].tree, self.known, exact)
        self._ranking.standings[index] = standing(self.decisions[index], self._bounds[index])
