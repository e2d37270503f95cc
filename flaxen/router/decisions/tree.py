"""The trees of a decision's rules: conditions joined by AND, OR and NOT."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from flaxen.router.signals.predicate import Predicate

PROJECTION = "projection"  # the kind of leaves that read a projection's output


class SignalKey(NamedTuple):
    """The name of one result of a signal: the condition's type, and the rule's name, with the
    level or the label behind a colon where a rule has several (`difficulty:hard`)."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


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
