"""Divides the prompt tokens that the pace allows in a step among sequences.

Deliberately does not know: pages, rows, admission.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from flaxen.scheduling.pace import Pace
from flaxen.scheduling.plan import StepPlan
from flaxen.scheduling.sequence import Sequence


def take(
    pace: Pace | None,
    plan: StepPlan,
    sequence: Sequence,
    wanted: int,
    budget: int,
    prefilling: Iterable[tuple[Sequence, int]],
) -> int:
    """Decides how many of a sequence's tokens this step computes, and counts them.

    Args:
      pace: None leaves only the budget.
      plan: the step's plan, which is updated.
      sequence: decoding sequences must come before all others.
      wanted: how many tokens the sequence needs.
      budget: the step's remaining token budget.
      prefilling: as in `left`.
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
    """The tokens that the step has left for a sequence that needs more than one.

    Args:
      pace: None leaves only the budget.
      plan: the step's plan.
      sequence: a sequence in prefill, or one that is resumed.
      budget: the step's remaining token budget.
      prefilling: all sequences that could be prefilled in this step, and the tokens that each
          needs; only read if the pace was not asked yet.
    """
    if pace is None or plan.num_decoding == 0:
        return budget
    if plan.num_allowed is None:
        num_prompts, num_completed = _count(pace, prefilling, budget)
        plan.num_allowed = pace.num_allowed(plan.num_decoding, num_prompts, num_completed)
    num_left = math.floor((plan.num_allowed - plan.cost) / _price(pace, sequence))
    # A prompt always advances, however expensive its log-probabilities are.
    least = 1 if plan.num_allowed and not plan.cost else 0
    return min(budget, max(least, num_left))


def _price(pace: Pace | None, sequence: Sequence) -> float:
    """The cost of one token of a sequence, in units of prompt tokens without logprobs."""
    return pace.scored_price if pace is not None and sequence.is_scored else 1.0


def _count(pace: Pace, prefilling: Iterable[tuple[Sequence, int]], budget: int) -> tuple[int, int]:
    """The number of prompts, and of those that a step without a limit would complete."""
    num_prompts = num_completed = 0
    for sequence, missing in prefilling:
        num_prompts += 1
        budget -= math.ceil(missing * _price(pace, sequence))
        if budget >= 0:
            num_completed += 1
    return num_prompts, num_completed
