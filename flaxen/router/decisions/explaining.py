"""Says how a request was decided, node by node."""

from __future__ import annotations

from dataclasses import dataclass

from flaxen.router.decisions.bounds import FALSE, TRUE, UNKNOWN
from flaxen.router.decisions.deciding import Deciding
from flaxen.router.decisions.known import Known
from flaxen.router.decisions.ranking import Rules
from flaxen.router.decisions.tree import PROJECTION, And, Leaf, Node, Not
from flaxen.router.decisions.walk import bounds_of

NOT_COMPUTED = "not computed"
_VALUES = {TRUE: "true", FALSE: "false", UNKNOWN: "unknown"}
_NO_DIFFERENCE = "nothing depends on it any more"
_SKIPPED = {"false": "its {} is false already", "true": "its {} is true already"}


@dataclass(frozen=True, kw_only=True)
class ExplainedNode:
    """One node of a tree, after a request.

    Attributes:
      name: AND, OR, NOT, or the signal's key with its predicate.
      value: true, false, unknown, or "not computed".
      confidence: of a true node, in [0, 1]; None if it is not true, or not known exactly because
        it made no difference.
      reason: what the signal found, or why the node was not computed.
    """

    name: str
    value: str
    confidence: float | None = None
    reason: str = ""
    children: tuple[ExplainedNode, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExplainedDecision:
    """One decision, after a request: its name, its tree (None if it matches all), and whether it
    won."""

    name: str
    won: bool
    tree: ExplainedNode | None


def explain(deciding: Deciding) -> tuple[ExplainedDecision, ...]:
    """Explains all decisions of a request that is decided. It asks for no signal."""
    known = deciding.known.without_asking()
    winner = deciding.decided().rules
    return tuple(_decision(rules, winner, known) for rules in deciding.decisions)


def _decision(rules: Rules, winner: Rules | None, known: Known) -> ExplainedDecision:
    won = rules is winner
    skipped = _NO_DIFFERENCE
    if winner is not None and not won:
        skipped = f"{winner.name} comes first whatever this is"
    tree = None if rules.tree is None else _node(rules.tree, known, skipped)
    return ExplainedDecision(name=rules.name, won=won, tree=tree)


def _node(node: Node, known: Known, skipped: str) -> ExplainedNode:
    """Explains a node; `skipped` says why it was not computed, if it was not."""
    bounds = bounds_of(node, known, exact=True)
    value = _VALUES.get(bounds.may_be, NOT_COMPUTED)
    confidence = bounds.low if value == "true" and bounds.low == bounds.high else None
    reason = skipped if value == NOT_COMPUTED else ""
    if isinstance(node, Leaf):
        return ExplainedNode(
            name=_leaf_name(node),
            value=value,
            confidence=confidence,
            reason=reason or _found(node, known),
        )
    name = "AND" if isinstance(node, And) else "NOT" if isinstance(node, Not) else "OR"
    inner = _SKIPPED[value].format(name) if value in _SKIPPED else skipped
    children = (node.child,) if isinstance(node, Not) else node.children
    return ExplainedNode(
        name=name,
        value=value,
        confidence=confidence,
        reason=reason,
        children=tuple(_node(child, known, inner) for child in children),
    )


def _leaf_name(leaf: Leaf) -> str:
    return str(leaf.key) if leaf.predicate is None else f"{leaf.key} {leaf.predicate}"


def _found(leaf: Leaf, known: Known) -> str:
    """What the signal of a leaf found."""
    if leaf.key.kind == PROJECTION:
        score = known.score_behind(leaf.key.name)
        if score.low == score.high:
            return f"the score is {score.low:g}"
        return f"the score is between {score.low:g} and {score.high:g}"
    found = known.found.get(leaf.key)
    return found.reason if found else ""
