"""Whether drafts pay: what they are expected to gain, beside the time that they take (decision
0361).

Deliberately does not know: drafters, sequences, how steps are planned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from typing import final

from flaxen.scheduling.step_time import StepTime

_CHUNK = 32  # tokens: steps of a prompt
_FORGET = 1.1  # by which the least time of a token grows with each step, since machines change
_RATE = 0.2  # the weight of a new draft token in the running acceptance
_FIRST_WAIT_S = 0.001  # before any was measured
_WAIT_RATE = 0.1
_LONGEST_WAIT_S = 0.02  # a longer one had other reasons
# Tokens without drafts after which a drafter that costs time is asked again; each pause is twice
# as long as the one before, up to the second number.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 32, 1024


@final
class Acceptance:
    """How likely a draft token of one sequence is right, if those before it are.

    Args:
      first: the likelihood before anything is known.
    """

    def __init__(self, first: float) -> None:
        self.rate = self._first = first
        self._pause, self._num_paused = _SHORTEST_PAUSE, 0

    def observe(self, num_right: int, *, then_wrong: bool) -> None:
        """Draft tokens were right, and perhaps the next one was wrong."""
        self.rate = 1 - (1 - self.rate) * (1 - _RATE) ** num_right
        if then_wrong:
            self.rate *= 1 - _RATE
        if num_right:
            self._pause = _SHORTEST_PAUSE

    def skip(self) -> None:
        """A token came without drafts, because none would have paid: after a while one is worth
        another try.
        """
        self._num_paused += 1
        if self._num_paused >= self._pause:
            self.rate, self._num_paused = self._first, 0
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)


@dataclass(frozen=True, slots=True)
class Offer:
    """The drafts that a sequence may have."""

    rate: float  # how likely each is right, if those before it are
    most: int
    num_before: int = 0  # tokens that must be as foreseen before the first draft is looked at


class Payoff:
    """Chooses how many drafts each sequence of a step gets."""

    def __init__(self) -> None:
        self._time = StepTime()
        self._chunk_token_s = math.inf  # of each token of a large step
        self._wait_s = _FIRST_WAIT_S

    def observe(self, num_tokens: int, num_scored: int, seconds: float) -> None:
        """Records the duration of a step, as in StepTime.observe."""
        self._time.observe(num_tokens, num_scored, seconds)
        if num_tokens >= _CHUNK:
            self._chunk_token_s = min(seconds / num_tokens, _FORGET * self._chunk_token_s)

    def observe_wait(self, seconds: float) -> None:
        """Records how long the device had nothing to do, because a step was only planned when the
        tokens of the one before had come.
        """
        self._wait_s += _WAIT_RATE * (min(seconds, _LONGEST_WAIT_S) - self._wait_s)

    def choose(
        self, offers: Ids[Offer], num_running: int, spare: int, draft_s: float = 0.0
    ) -> list[int]:
        """The number of drafts for each sequence, all 0 where they would not pay for the wait.

        A draft gains a token, as likely as it is right. A token is worth its part of a step without
        drafts, and a draft costs what a token adds to a step, and what proposing it takes.

        Args:
          offers: of sequences that could have drafts.
          num_running: all sequences of the step.
          spare: the most drafts in all.
          draft_s: the seconds in which one more draft is proposed for all of these sequences.
        """
        time = self._time
        worth_s = (time.fixed_s + num_running * time.token_s) / max(1, num_running)
        # A few tokens more cost no more than each token of many: they read the same weights.
        cost_s = min(time.token_s, self._chunk_token_s) + draft_s / max(1, len(offers))
        numbers, gain_s = [], -self._wait_s
        for offer in offers:
            number, chance = 0, offer.rate ** (1 + offer.num_before)
            while number < min(offer.most, spare) and chance * worth_s > cost_s:
                gain_s += chance * worth_s - cost_s
                number, chance = number + 1, chance * offer.rate
            spare -= number
            numbers.append(number)
        return numbers if gain_s > 0 else [0] * len(numbers)
