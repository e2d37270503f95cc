"""A step's prompt tokens under a pace: how many of them are left for each sequence.

Deliberately does not know: pages, rows, who is admitted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from flaxen.engine.pace import Pace
from flaxen.engine.plan import StepPlan
from flaxen.engine.sequence import Sequence


def take(
    pace: Pace | None,
    plan: StepPlan,
    sequence: Sequence,
    wanted: int,
    budget: int,
    prefilling: Iterable[tuple[Sequence, int]],
) -> int:
    """How many of the tokens that a sequence wants are computed in this step; counts them.

    Args:
      pace: None leaves only the budget.
      plan: of the step; changed.
      sequence: decoding ones must come before all others.
      wanted: how many tokens the sequence needs.
      budget: the most that the step still has room for.
      prefilling: as of `left`.
    """
    if wanted == 1:
        plan.num_decoding += 1
        return 1
    num_taken = min(wanted, left(pace, plan, sequence, budget, prefilling))
    plan.num_catching_up += num_taken
    plan.cost += num_taken * _price(pace, sequence)
    return num_taken


def left(
    pace: Pace | None,
    plan: StepPlan,
    sequence: Sequence,
    budget: int,
    prefilling: Iterable[tuple[Sequence, int]],
) -> int:
    """How many tokens the step has left for a sequence that needs more than one.

    Args:
      pace: None leaves only the budget.
      plan: of the step.
      sequence: a prompt's, or one that is resumed.
      budget: the most that the step still has room for.
      prefilling: all that could be computed in this step, and how many tokens each needs; read only
        where the pace has not been asked yet.
    """
    if pace is None or plan.num_decoding == 0:
        return budget
    if plan.num_allowed is None:
        num_completed = _num_completed(pace, prefilling, budget)
        plan.num_allowed = pace.num_allowed(plan.num_decoding, num_completed)
    num_left = math.floor((plan.num_allowed - plan.cost) / _price(pace, sequence))
    # A prompt goes on, however dear its scores are.
    least = 1 if plan.num_allowed and not plan.cost else 0
    return min(budget, max(least, num_left))


def _price(pace: Pace | None, sequence: Sequence) -> float:
    """What one token of a sequence costs, in prompt tokens without scores."""
    return pace.scored_price if pace is not None and sequence.is_scored else 1.0


def _num_completed(pace: Pace, prefilling: Iterable[tuple[Sequence, int]], budget: int) -> int:
    """How many prompts end in a step that computes as many of their tokens as it can."""
    num_completed = 0
    for sequence, missing in prefilling:
        budget -= math.ceil(missing * _price(pace, sequence))
        if budget < 0:
            break
        num_completed += 1
    return num_completed
