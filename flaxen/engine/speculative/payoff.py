"""Whether drafts pay: the tokens that come with them in a second, beside those that come without
(decisions 0361 and 0367).

Deliberately does not know: drafters, sequences, how steps are planned.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence as Ids
from dataclasses import dataclass, replace
from typing import final

from flaxen.engine.speculative.round_time import RoundTime

_LEAST_CHANCE = 0.05  # a draft that is less likely right is not made
_MARGIN = 1.03  # the tokens with drafts for each one without, from which on drafts are made
# After so many equal choices some of the other kind are tried, then after twice as many, and so on.
_FIRST_PATIENCE, _LONGEST_PATIENCE, _TRIES = 32, 1024, 2
_CERTAIN, _HOPELESS = 1.3, 0.5  # gains that need no try
_FIRST_S = 0.01  # of any round, before one was measured
_MOST_SIZES = 20  # a step has fewer tokens than 2 to the power of this
_DRAFTING = "drafting"  # the kind of what a draft model takes for a token


@final
class Acceptance:
    """How likely a draft token is right, if those before it are: a running mean.

    Args:
      first: the likelihood before anything is known.
      weight: of the newest draft token.
    """

    def __init__(self, first: float, weight: float) -> None:
        self.rate, self._weight = first, weight

    def observe(self, num_right: int, *, then_wrong: bool) -> None:
        """Draft tokens were right, and perhaps the next one was wrong."""
        self.rate = 1 - (1 - self.rate) * (1 - self._weight) ** num_right
        if then_wrong:
            self.rate *= 1 - self._weight


@dataclass(frozen=True, slots=True)
class Offer:
    """The drafts that a sequence may have."""

    rate: float  # how likely each is right, if those before it are
    most: int
    num_before: int = 0  # tokens that must be as foreseen before the first draft is looked at
    hope: float = 0.0  # a rate that is worth a try, although it was lower at last


@final
class Payoff:
    """Chooses how many drafts each sequence of a step gets: as many as give the most tokens in a
    second, by what rounds were measured to take.

    What was measured may be wrong or old. So after many choices of one kind, drafts or none, a few
    of the other kind are made, and measured.
    """

    def __init__(self) -> None:
        self._times = RoundTime()
        self._pays = False  # the last choice that was not a try
        self._num_alike = 0  # choices like it since
        self._patience = _FIRST_PATIENCE
        self._num_tries = 0  # that are still to be made

    def observe(self, num_tokens: int, seconds: float, *, waited: bool) -> None:
        """Records a round.

        Args:
          num_tokens: that its step computed.
          seconds: since the tokens of the step before were there, without the time of proposing.
          waited: whether it was planned only when they were there.
        """
        size = _size(num_tokens)
        self._times.observe((size, waited), seconds, self._guess_s(size, waited=waited))

    def observe_drafting(self, token_s: float) -> None:
        """Records how long a drafter took for one more token of all its sequences."""
        self._times.observe(_DRAFTING, token_s, None)

    def choose(self, offers: Ids[Offer], num_running: int, spare: int) -> list[int]:
        """The number of drafts for each sequence, all 0 where they would not pay.

        Args:
          offers: of sequences that could have drafts.
          num_running: all sequences of the step.
          spare: the most drafts in all.
        """
        none = [0] * len(offers)
        if not any(offer.most > 0 for offer in offers):
            return none
        numbers, gain = self._best(offers, num_running, spare)
        pays = gain > _MARGIN
        if pays != self._pays:
            self._pays, self._num_alike, self._patience = pays, 0, _FIRST_PATIENCE
        if pays:
            return none if gain < _CERTAIN and self._is_try() else numbers
        has_hope = any(each.rate < each.hope for each in offers)
        if (gain < _HOPELESS and not has_hope) or not self._is_try():
            return none
        hopeful = [replace(each, rate=max(each.rate, each.hope)) for each in offers]
        return self._best(hopeful, num_running, spare)[0]

    def _is_try(self) -> bool:
        """Whether the other kind of choice is made now."""
        if self._num_tries:
            self._num_tries -= 1
            return True
        self._num_alike += 1
        if self._num_alike >= self._patience:
            self._num_alike, self._num_tries = 0, _TRIES
            self._patience = min(2 * self._patience, _LONGEST_PATIENCE)
        return False

    def _best(self, offers: Ids[Offer], num_running: int, spare: int) -> tuple[list[int], float]:
        """The best numbers of drafts, at least one, and how many times as many tokens come with
        them in a second as without.
        """
        plain = num_running / self._seconds(_size(num_running), waited=False)
        drafting_s = self._times.seconds(_DRAFTING, 0.0) or 0.0
        numbers, num_expected, total = [0] * len(offers), float(num_running), 0
        best, most = numbers, 0.0
        size, seconds = -1, 0.0
        # The likeliest first. Where proposing takes time, all get their next one at once.
        queue = [
            (0, -(offer.rate ** (1 + offer.num_before)), i)
            for i, offer in enumerate(offers)
            if offer.most > 0
        ]
        heapq.heapify(queue)
        while queue and total < spare:
            _, chance, i = heapq.heappop(queue)
            if -chance < _LEAST_CHANCE:
                continue
            total, num_expected = total + 1, num_expected - chance
            numbers[i] += 1
            if numbers[i] < offers[i].most:
                turn = numbers[i] if drafting_s else 0
                heapq.heappush(queue, (turn, chance * offers[i].rate, i))
            if _size(num_running + total) != size:
                size = _size(num_running + total)
                seconds = self._seconds(size, waited=True)
            gain = num_expected / (seconds + max(numbers) * drafting_s) / plain
            if gain > most:
                best, most = numbers.copy(), gain
        return best, most

    def _seconds(self, size: int, *, waited: bool) -> float:
        return self._times.seconds((size, waited), self._guess_s(size, waited=waited)) or _FIRST_S

    def _guess_s(self, size: int, *, waited: bool) -> float | None:
        """The time that is expected of rounds of a size that was not measured: no more than that of
        fewer tokens, since both read the same weights. So such rounds will be tried.
        """
        for other in (*range(size - 1, -1, -1), *range(size, _MOST_SIZES)):
            for kind in ((other, waited), (other, not waited)):
                if kind != (size, waited) and self._times.knows(kind):
                    return self._times.seconds(kind, None)
        return None


def _size(num_tokens: int) -> int:
    """A step's size, rounded to a power of 2: 0 of 1 token, 1 of 2, 2 of 3 and 4, and so on."""
    return (num_tokens - 1).bit_length()
