"""How long rounds take beside each other, on a machine whose speed changes (decision 0367).

Deliberately does not know: drafts, sequences, how steps are planned.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import final

_SPEED_RATE = 0.3  # how much of a round's deviation is taken for a change of the machine's speed
_LEAST_RATE = 0.05  # the weight of a kind's newest time, once it has many
_LONGEST = 3.0  # a longer time, beside the expected one, had other reasons, such as a compilation
_SHORTEST_S = 1e-6  # of a round, where a clock is too coarse to tell
_ENOUGH = 4  # times of a kind before it is judged by them


@dataclass(slots=True)
class _Kind:
    seconds: float  # at the speed that the machine had when the first kind was measured
    num_times: int = 0


@final
class RoundTime:
    """The usual seconds of each kind of round, as a product of two factors.

    The machine's slowness is common to all kinds and follows each round at once. A kind's own time
    changes slowly. So kinds that were measured at different times are compared as if they had been
    measured side by side.
    """

    def __init__(self) -> None:
        self._slowness = 1.0
        self._kinds: dict[Hashable, _Kind] = {}

    def observe(self, kind: Hashable, seconds: float, guess_s: float | None) -> None:
        """Records the duration of a round.

        Args:
          kind: what the duration depends on.
          seconds: the duration.
          guess_s: what was expected of a kind that is new; None: nothing.
        """
        known, seconds = self._kinds.get(kind), max(seconds, _SHORTEST_S)
        if known is None:
            guess_s = seconds if guess_s is None else guess_s
            known = self._kinds[kind] = _Kind(guess_s / self._slowness)
        ratio = min(seconds / (known.seconds * self._slowness), _LONGEST)
        if known.num_times:  # else nothing is known about this kind at any speed
            self._slowness *= ratio**_SPEED_RATE
        known.num_times += 1
        known.seconds *= ratio ** max(1 / known.num_times, _LEAST_RATE)

    def seconds(self, kind: Hashable, guess_s: float | None) -> float | None:
        """The time that a round of this kind would take now.

        Args:
          kind: what the duration depends on.
          guess_s: what a kind takes at most that was not measured often enough; None: unknown.
        """
        known = self._kinds.get(kind)
        if known is None:
            return guess_s
        seconds = known.seconds * self._slowness
        if known.num_times < _ENOUGH and guess_s is not None:
            return min(seconds, guess_s)
        return seconds

    def knows(self, kind: Hashable) -> bool:
        """Whether a kind was measured."""
        return kind in self._kinds
