"""Which decisions can never win, because others come before them for every request."""

from __future__ import annotations

from collections.abc import Sequence

from flaxen.router.decisions.bounds import TRUE
from flaxen.router.decisions.known import Known
from flaxen.router.decisions.projections import Projections
from flaxen.router.decisions.ranking import Ranking, Rules, Strategy, standing
from flaxen.router.decisions.walk import bounds_of


def unreachable(
    decisions: Sequence[Rules], strategy: Strategy, projections: Projections
) -> dict[int, str]:
    """The indices of decisions that can never win, each with the reason."""
    return {
        **_behind_equals(decisions, strategy),
        **_behind_catch_alls(decisions, strategy, projections),
    }


def _behind_catch_alls(
    decisions: Sequence[Rules], strategy: Strategy, projections: Projections
) -> dict[int, str]:
    """Those behind a decision that matches every request."""
    nothing_known = Known(projections, lambda key: None)
    bounds = [bounds_of(rules.tree, nothing_known, exact=True) for rules in decisions]
    ranking = Ranking(decisions, strategy)
    ranking.standings = [
        standing(rules, each) for rules, each in zip(decisions, bounds, strict=True)
    ]
    can_win = ranking.could_win()
    always = [index for index in can_win if bounds[index].may_be == TRUE]
    return {
        index: f"{decisions[always[0]].name} (priority {decisions[always[0]].priority}, tier "
        f"{decisions[always[0]].tier}) matches every request and comes before it: give that one a "
        "lower priority or conditions, or remove this one"
        for index in range(len(decisions))
        if always and index not in can_win
    }


def _behind_equals(decisions: Sequence[Rules], strategy: Strategy) -> dict[int, str]:
    """Those behind a decision with the same conditions and a greater priority."""
    if strategy != "priority" or any(rules.tier for rules in decisions):
        return {}
    found: dict[int, str] = {}
    for index, rules in enumerate(decisions):
        for other in decisions:
            is_same = rules.tree == other.tree and rules.tree is not None
            wins_as_often = rules.on_unknown in ("no_match", other.on_unknown)
            if is_same and wins_as_often and other.priority > rules.priority:
                found[index] = (
                    f"{other.name} (priority {other.priority}) has the same conditions and comes "
                    "before it: give them different conditions, or remove one"
                )
    return found
