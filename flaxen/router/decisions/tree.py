"""The trees of a decision's rules: conditions joined by AND, OR and NOT."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

PROJECTION = "projection"  # the kind of leaves that read a projection's output


class SignalKey(NamedTuple):
    """The name of one result of a signal: the condition's type, and the rule's name, with the
    level or the label behind a colon where a rule has several (`difficulty:hard`)."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


@dataclass(frozen=True, kw_only=True)
class Predicate:
    """A range of numbers: above `gt` or from `gte` on, and below `lt` or up to `lte`.

    Raises:
      ValueError: a bound is not finite, two bounds of one side are given, or no number is between
        them. A predicate without bounds holds for every number.
    """

    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None

    def __post_init__(self) -> None:
        for name in ("gt", "gte", "lt", "lte"):
            bound = getattr(self, name)
            if bound is not None and not math.isfinite(bound):
                raise ValueError(f"{name} must be a finite number, got {bound}")
        for one, other in (("gt", "gte"), ("lt", "lte")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(
                    f"{one} and {other} bound the same side of the range: give one of them"
                )
        low, high = self.low, self.high
        is_open = self.gt is not None or self.lt is not None
        if low > high or (low == high and is_open):
            raise ValueError(
                f"the range {self} is empty, so the condition can never hold: its lower bound must "
                "be below its upper one"
            )

    @property
    def low(self) -> float:
        return next((bound for bound in (self.gt, self.gte) if bound is not None), -math.inf)

    @property
    def high(self) -> float:
        return next((bound for bound in (self.lt, self.lte) if bound is not None), math.inf)

    def holds(self, value: float) -> bool:
        """Whether a number is in the range."""
        return self.may_hold(value, value)

    def may_hold(self, low: float, high: float) -> bool:
        """Whether some number from `low` to `high` is in the range."""
        return (
            (self.gt is None or high > self.gt)
            and (self.gte is None or high >= self.gte)
            and (self.lt is None or low < self.lt)
            and (self.lte is None or low <= self.lte)
        )

    def __str__(self) -> str:
        bounds = [(n, getattr(self, n)) for n in ("gt", "gte", "lt", "lte")]
        return ", ".join(f"{name} {bound:g}" for name, bound in bounds if bound is not None)


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A condition: a signal's result by its key.

    Attributes:
      predicate: what the result's number must be; without one, the rule must match.
      if_unknown: what the condition is where its signal is unknown (`on_error` of the
        configuration); None leaves it unknown.
    """

    key: SignalKey
    predicate: Predicate | None = None
    if_unknown: bool | None = None


@dataclass(frozen=True)
class And:
    """True if all children are. Without children: always."""

    children: tuple[Node, ...]


@dataclass(frozen=True)
class Or:
    """True if some child is. Without children: never."""

    children: tuple[Node, ...]


@dataclass(frozen=True)
class Not:
    """True if its child is false."""

    child: Node


Node = Leaf | And | Or | Not


def leaves(node: Node) -> Iterator[Leaf]:
    """The conditions of a tree, from the left."""
    if isinstance(node, Leaf):
        yield node
    elif isinstance(node, Not):
        yield from leaves(node.child)
    else:
        for child in node.children:
            yield from leaves(child)
