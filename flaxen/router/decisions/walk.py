"""Walks a tree from the left, and stops where its value can't change any more."""

from __future__ import annotations

from flaxen.router.decisions.bounds import IS_FALSE, TRUE, Bounds, all_of, none_of, some_of
from flaxen.router.decisions.known import Known
from flaxen.router.decisions.tree import And, Leaf, Node, Not

_MATCHES_ALL = Bounds(TRUE)


def bounds_of(node: Node | None, known: Known, exact: bool = False) -> Bounds:
    """What a tree can still be.

    Args:
      node: None matches every request, with confidence 0.
      known: is asked for the signals on the way.
      exact: whether to go on for the confidence of a tree that is true already.
    """
    if node is None:
        return _MATCHES_ALL
    if isinstance(node, Leaf):
        return known.leaf(node, exact)
    if isinstance(node, Not):
        return none_of(bounds_of(node.child, known))
    parts: list[Bounds] = []
    if isinstance(node, And):
        for child in node.children:
            parts.append(bounds_of(child, known, exact))
            if parts[-1] == IS_FALSE:
                return IS_FALSE
        return all_of(parts)
    for child in node.children:
        part = bounds_of(child, known, exact)
        if part.may_be == TRUE and (part.low == 1.0 or not exact):
            return Bounds(TRUE, part.low, 1.0)
        parts.append(part)
    return some_of(parts)
