"""How long steps take, told to the pace and to what decides about drafts.

Deliberately does not know: what they do with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from flaxen.engine.speculative.drafts import Drafts
from flaxen.scheduling.pace import Pace
from flaxen.scheduling.plan import StepPlan


@final
class StepTiming:
    """The durations of steps that follow each other on one device.

    Args:
      clock: monotonic seconds.
      pace: limits prompts; None: nothing does.
      drafts: of the sequences.
    """

    def __init__(self, clock: Callable[[], float], pace: Pace | None, drafts: Drafts) -> None:
        self._clock, self._pace, self._drafts = clock, pace, drafts
        self.last_end_s = 0.0  # when the last step's tokens were there

    def ended(self, plan: StepPlan, began_s: float, *, waited: bool) -> None:
        """A step's tokens have come.

        Args:
          plan: the step's.
          began_s: when it was started, or when what it waited for was there.
          waited: whether it was planned only when the tokens of the step before were there.
        """
        began_s, self.last_end_s = max(began_s, self.last_end_s), self._clock()
        seconds = self.last_end_s - began_s
        num_tokens = plan.num_decoding + plan.num_catching_up
        num_scored = sum(item.num_scored for item in plan.items)
        if self._pace is not None:
            self._pace.observe(num_tokens, num_scored, seconds)
        if self._drafts.is_on and not num_scored:
            self._drafts.payoff.observe(num_tokens, seconds, waited=waited)
