"""From a decision's rules, as the file has them, to a tree."""

from __future__ import annotations

from flaxen.router.decisions.tree import PROJECTION, And, Leaf, Node, Not, Or
from flaxen.router_config.decision import RuleNode
from flaxen.router_config.names import NOWHERE, Names
from flaxen.router_config.problems import Path, Problems


class TreeMaker:
    """Makes the trees of a recipe, and collects what is wrong with its conditions.

    Args:
      problems: gets problems by their paths; their lines are found later.
    """

    def __init__(self, names: Names, problems: Problems) -> None:
        self._names = names
        self._problems = problems

    def root(self, node: RuleNode | None, path: Path) -> Node | None:
        """The tree of a decision; None if it has no conditions, and matches every request."""
        if node is None or (not node.type and not node.conditions):
            if node is not None and node.operator.upper() == "OR":
                self._problems.add(
                    0, path, "OR without conditions can never be true: give it some, or remove it"
                )
            return None
        if node.on_unknown and any(below.on_error for below in _conditions(node)):
            self._problems.add(
                0,
                path,
                "on_unknown says what an unknown tree is, and on_error in it what an unknown "
                "condition is: keep one of them",
            )
        made = self._node(node, path, is_root=True)
        return And((made,)) if isinstance(made, Leaf) else made

    def _node(self, node: RuleNode, path: Path, is_root: bool = False) -> Node:
        if node.on_unknown and not is_root:
            self._problems.add(0, (*path, "on_unknown"), "on_unknown belongs to the top of rules")
        if node.type:
            return self._leaf(node, path)
        if not node.conditions:
            self._problems.add(0, path, "an operator needs conditions, or a condition its type")
        children = tuple(
            self._node(child, (*path, "conditions", index))
            for index, child in enumerate(node.conditions)
        )
        operator = node.operator.upper()
        if operator == "NOT":
            return Not(children[0])
        return Or(children) if operator == "OR" else And(children)

    def _leaf(self, node: RuleNode, path: Path) -> Leaf:
        if node.on_error and node.type.strip().lower() != "classifier":
            self._problems.add(
                0,
                (*path, "on_error"),
                "on_error is for classifiers; on_unknown at the top of rules is for all",
            )
        if node.predicate is not None and node.type.strip().lower() == PROJECTION:
            self._problems.add(
                0,
                (*path, "predicate"),
                "a projection's output is a range already: give its mapping another output",
            )
        try:
            key = self._names.key(node.type, node.name, node.label)
        except ValueError as error:
            self._problems.add(0, path, str(error))
            return Leaf(key=NOWHERE)
        if_unknown = {"match": True, "no_match": False}.get(node.on_error)
        return Leaf(key=key, predicate=node.predicate, if_unknown=if_unknown)


def _conditions(node: RuleNode) -> list[RuleNode]:
    """A node and all below it."""
    return [node, *(each for child in node.conditions for each in _conditions(child))]
