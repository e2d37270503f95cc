"""Decides a request at once, with what a model finds there and then."""

from __future__ import annotations

from collections.abc import Sequence

from flaxen.router.decisions.deciding import Deciding
from flaxen.router.decisions.known import Find
from flaxen.router.decisions.projections import Projections
from flaxen.router.decisions.ranking import Rules, Strategy

_NO_PROJECTIONS = Projections()


def decide(
    decisions: Sequence[Rules],
    find: Find,
    compute: Find,
    strategy: Strategy = "priority",
    projections: Projections = _NO_PROJECTIONS,
) -> Deciding:
    """Decides a request at once.

    Args:
      compute: what a model finds; it must not return None.

    Returns:
      The evaluation, decided.
    """
    deciding = Deciding(decisions, find, strategy, projections)
    while missing := deciding.advance():
        found = {key: compute(key) for key in missing}
        deciding.give({key: result for key, result in found.items() if result is not None})
    return deciding
