"""What a step takes, predicted from the steps before it.

A fixed part, a part for each token, and one for each prompt token that is scored: three numbers,
followed by a Kalman filter (R. E. Kalman, 1960).

Deliberately does not know: sequences, what the prediction is for.
"""

from __future__ import annotations

import numpy as np

_UNIT = 64  # tokens: about where the fixed part and the tokens' part are of one size
_FIRST_S = 0.04  # for _UNIT tokens, before any step was timed
# From one step to the next, as shares of a step's time.
_SPEED_DRIFT = 0.05  # of all three together: others use the machine too
_DRIFT = 0.01  # of each alone: contexts grow
_NOISE = 0.15  # of a measured time
_ALIKE = 0.25  # steps whose tokens differ by at most this share are alike
_MOST_ALIKE = 32  # steps in a row that are alike and still tell the parts' shares
_RATE = 0.2  # how much of an error one after those corrects
_LATE = 2.0  # a step counts as at most this much longer than predicted


class StepTime:
    """Predicts seconds; begins with a guess."""

    def __init__(self) -> None:
        self._parts_s = np.array([0.0, _FIRST_S, 0.0])  # fixed; for _UNIT tokens; for _UNIT scored
        self._covariance = np.diag([_FIRST_S**2] * 3)
        self._counts, self._num_alike = np.zeros(3), 0  # of the steps before

    @property
    def fixed_s(self) -> float:
        """Seconds that a step takes, whatever it computes."""
        return float(self._parts_s[0])

    @property
    def token_s(self) -> float:
        """Seconds that each token adds."""
        return float(self._parts_s[1]) / _UNIT

    @property
    def scored_s(self) -> float:
        """Seconds that each prompt token adds whose log-probability is computed."""
        return float(self._parts_s[2]) / _UNIT

    def observe(self, num_tokens: int, num_scored: int, seconds: float) -> None:
        """Takes the time of a step. One may have been late for reasons of its own.

        Args:
          num_tokens: that it computed, prompts' and others'.
          num_scored: prompt tokens whose log-probabilities it computed.
          seconds: from the end of the step before it, or from its start where it waited for none.
        """
        parts = self._parts_s
        counts = np.array([1.0, num_tokens / _UNIT, num_scored / _UNIT])
        predicted_s = float(parts @ counts)
        error_s = min(seconds, _LATE * predicted_s) - predicted_s
        is_alike = bool(np.all(np.abs(counts - self._counts) <= _ALIKE * self._counts))
        self._counts, self._num_alike = counts, self._num_alike + 1 if is_alike else 0
        if self._num_alike > _MOST_ALIKE:
            # They tell what all three take together, and nothing of each: a day of decoding would
            # let them drift apart.
            self._parts_s = parts * (1 + _RATE * error_s / predicted_s)
            return
        drift = _SPEED_DRIFT**2 * np.outer(parts, parts) + np.eye(3) * (_DRIFT * predicted_s) ** 2
        covariance = self._covariance + drift
        gain = covariance @ counts
        variance = float(counts @ gain) + (_NOISE * predicted_s) ** 2
        self._covariance = covariance - np.outer(gain, gain) / variance
        self._parts_s = np.maximum(parts + gain * (error_s / variance), [0.0, 1e-6, 0.0])
