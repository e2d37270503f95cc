"""Predicate: the range that a signal's number must be in."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Predicate:
    """A range of numbers: above `gt` or from `gte` on, and below `lt` or up to `lte`.

    Raises:
      ValueError: no bound is given, one is not finite, two are of one side, or no number is between
        them.
    """

    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None

    def __post_init__(self) -> None:
        bounds = self.bounds
        if not bounds:
            raise ValueError("a predicate needs a bound: give gt, gte, lt or lte")
        for name, bound in bounds:
            if not math.isfinite(bound):
                raise ValueError(f"{name} must be a finite number, got {bound}")
        for one, other in (("gt", "gte"), ("lt", "lte")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"{one} and {other} bound the same side: give one of them")
        low, high = self.low, self.high
        if low > high or (low == high and (self.gt is not None or self.lt is not None)):
            raise ValueError(
                f"the range {self} has no number in it, so the rule can never match: its lower "
                "bound must be below its upper one"
            )

    @property
    def bounds(self) -> list[tuple[str, float]]:
        """The bounds that are given, with their names."""
        named = [("gt", self.gt), ("gte", self.gte), ("lt", self.lt), ("lte", self.lte)]
        return [(name, bound) for name, bound in named if bound is not None]

    @property
    def low(self) -> float:
        return next((bound for name, bound in self.bounds if name in ("gt", "gte")), -math.inf)

    @property
    def high(self) -> float:
        return next((bound for name, bound in self.bounds if name in ("lt", "lte")), math.inf)

    def holds(self, value: float) -> bool:
        """Whether a number is in the range."""
        return (
            (self.gt is None or value > self.gt)
            and (self.gte is None or value >= self.gte)
            and (self.lt is None or value < self.lt)
            and (self.lte is None or value <= self.lte)
        )

    def __str__(self) -> str:
        return ", ".join(f"{name} {bound:g}" for name, bound in self.bounds)
