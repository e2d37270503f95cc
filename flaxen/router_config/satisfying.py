"""Whether a tree can be true at all: a search over the values of its conditions.

Conditions on different signals are taken for independent, except levels of one complexity, of which
one at most is true. So a tree that is refused can never be true, and some that can't are not found.
"""

from __future__ import annotations

from collections.abc import Iterator

from flaxen.router.decisions.tree import And, Leaf, Node, Not
from flaxen.router.signals.predicate import Predicate
from flaxen.router_config.problems import Path

_MOST_STEPS = 2_000  # then a tree counts as one that can be true
_Values = dict[Leaf, bool]


def contradictions(node: Node, path: Path) -> Iterator[Path]:
    """The paths of the smallest parts of a tree that can never be true."""
    if isinstance(node, Leaf):
        return
    children = (node.child,) if isinstance(node, Not) else node.children
    num_below = 0
    for index, child in enumerate(children):
        for found in contradictions(child, (*path, "conditions", index)):
            num_below += 1
            yield found
    if not num_below and not can_be_true(node):
        yield path


def can_be_true(node: Node) -> bool:
    """Whether some values of the conditions make a tree true."""
    steps = [0]

    def search(values: _Values) -> bool:
        steps[0] += 1
        if steps[0] > _MOST_STEPS:
            return True
        value, leaf = _value(node, values)
        if leaf is None:
            return value is True
        return any(
            _is_consistent(values, leaf, choice) and search({**values, leaf: choice})
            for choice in (True, False)
        )

    return search({})


def _value(node: Node, values: _Values) -> tuple[bool | None, Leaf | None]:
    """The value of a tree, or the first condition that it still depends on."""
    if isinstance(node, Leaf):
        bare = Leaf(key=node.key, predicate=node.predicate)
        return (values[bare], None) if bare in values else (None, bare)
    if isinstance(node, Not):
        value, leaf = _value(node.child, values)
        return (None if value is None else not value), leaf
    ends = not isinstance(node, And)  # the value of a child that decides
    first: Leaf | None = None
    for child in node.children:
        value, leaf = _value(child, values)
        if value is ends:
            return ends, None
        first = first or leaf
    return (None, first) if first else (not ends, None)


def _is_consistent(values: _Values, leaf: Leaf, value: bool) -> bool:
    """Whether a condition may have a value beside those that others have."""
    if not value:
        return True
    true = [other for other, is_true in values.items() if is_true]
    if leaf.predicate is not None:
        ranges = [o.predicate for o in true if o.key == leaf.key and o.predicate is not None]
        return all(_overlap(leaf.predicate, other) for other in ranges)
    if leaf.key.kind != "complexity":
        return True
    rule = leaf.key.name.rpartition(":")[0]
    return not any(
        other.key.kind == "complexity" and other.key.name.rpartition(":")[0] == rule
        for other in true
        if other.key != leaf.key and other.predicate is None
    )


def _overlap(one: Predicate, other: Predicate) -> bool:
    """Whether a number is in both ranges."""
    low, high = max(one.low, other.low), min(one.high, other.high)
    return low < high or (low == high and one.holds(low) and other.holds(low))
