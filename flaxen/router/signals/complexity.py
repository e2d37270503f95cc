"""The rule of complexity: whether a text is nearer to hard texts than to easy ones.

Its function needs a model, so it is not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flaxen.router.signals.checks import NamedRule, check_range, check_texts
from flaxen.router.signals.embedded import PrototypeScoring

LEVELS = ("easy", "medium", "hard")  # a condition's name is RULE:LEVEL


@dataclass(frozen=True, kw_only=True)
class ComplexityCandidates:
    """Texts and images of one level."""

    candidates: tuple[str, ...] = ()
    image_candidates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_texts([*self.candidates, *self.image_candidates], "candidates and image_candidates")


@dataclass(frozen=True, kw_only=True)
class ComplexityRule(NamedRule):
    """The level of a request by its margin: the similarity to hard texts less that to easy ones.

    Attributes:
      threshold: above it the level is hard, below its negative easy. It is 0.1 if no bound is
        given.
      hard_above, easy_below: the same with two bounds.
      hard_below, easy_above: for a score that grows with ease.
      composer: conditions over other signals (as a decision's rules) that must hold as well.

    Raises:
      ValueError: bounds are missing, mixed or the wrong way round.
    """

    hard: ComplexityCandidates
    easy: ComplexityCandidates
    threshold: float | None = None
    hard_above: float | None = None
    easy_below: float | None = None
    hard_below: float | None = None
    easy_above: float | None = None
    prototype_scoring: PrototypeScoring | None = None
    composer: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if ":" in self.name:
            raise ValueError(f"the name {self.name!r} may not have a colon, as RULE:LEVEL has one")
        pairs = [(self.hard_above, self.easy_below), (self.easy_above, self.hard_below)]
        given = [pair for pair in pairs if pair != (None, None)]
        if len(given) + (self.threshold is not None) > 1:
            raise ValueError(
                "give threshold, or hard_above and easy_below, or hard_below and easy_above: "
                "two of them contradict each other"
            )
        if self.threshold is not None:
            check_range(self.threshold, "threshold", 0, 2)
        for upper, lower in given:
            if upper is None or lower is None:
                raise ValueError("bounds of complexity come in pairs: the other one is missing")
            check_range(upper, "the upper bound", -2, 2)
            check_range(lower, "the lower bound", -2, 2)
            if lower > upper:
                raise ValueError(
                    f"a score above {upper:g} and below {lower:g} would be hard and easy at once: "
                    "exchange the bounds"
                )
