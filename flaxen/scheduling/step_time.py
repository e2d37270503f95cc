"""Predicts the duration of a step from those of earlier steps.

The model has three parameters: a fixed time, a time for each token, and a time for each prompt
token with a log-probability. A Kalman filter (R. E. Kalman, 1960) estimates them.

Deliberately does not know: sequences, the use of the prediction.
"""

from __future__ import annotations

import numpy as np

_UNIT = 64  # tokens: about where the fixed time equals that of the tokens
_FIRST_S = 0.04  # for _UNIT tokens, before any step was measured
# Changes from one step to the next, as shares of a step's time.
_SPEED_DRIFT = 0.05  # of all three together: other programs use the machine too
_DRIFT = 0.01  # of each one separately: contexts grow
_NOISE = 0.15  # noise of a measured time
_ALIKE = 0.25  # steps whose tokens differ by at most this share count as equal
_MOST_ALIKE = 32  # equal steps in a row that still update the three separately
_RATE = 0.2  # the share of an error that a later equal step corrects
_LATE = 2.0  # a step's time is capped at this multiple of the prediction


class StepTime:
    """Predicts the seconds of a step, starting from a guess."""

    def __init__(self) -> None:
        # Fixed; for _UNIT tokens; for _UNIT with log-probabilities.
        self._parts_s = np.array([0.0, _FIRST_S, 0.0])
        self._covariance = np.diag([_FIRST_S**2] * 3)
        self._counts, self._num_alike = np.zeros(3), 0  # of earlier steps

    @property
    def fixed_s(self) -> float:
        """The fixed seconds of a step."""
        return float(self._parts_s[0])

    @property
    def token_s(self) -> float:
        """The seconds that each token adds."""
        return float(self._parts_s[1]) / _UNIT

    @property
    def scored_s(self) -> float:
        """The seconds that the log-probability of a prompt token adds."""
        return float(self._parts_s[2]) / _UNIT

    def observe(self, num_tokens: int, num_scored: int, seconds: float) -> None:
        """Records the duration of a step, which may be an outlier.

        Args:
          num_tokens: all tokens that it computed.
          num_scored: prompt tokens with log-probabilities.
          seconds: since the end of the previous step, or since its start if it did not wait for
              one.
        """
        parts = self._parts_s
        counts = np.array([1.0, num_tokens / _UNIT, num_scored / _UNIT])
        predicted_s = float(parts @ counts)
        error_s = min(seconds, _LATE * predicted_s) - predicted_s
        is_alike = bool(np.all(np.abs(counts - self._counts) <= _ALIKE * self._counts))
        self._counts, self._num_alike = counts, self._num_alike + 1 if is_alike else 0
        if self._num_alike > _MOST_ALIKE:
            # Equal steps show only the sum of the three: with hours of decoding the three would
            # drift apart.
            self._parts_s = parts * (1 + _RATE * error_s / predicted_s)
            return
        drift = _SPEED_DRIFT**2 * np.outer(parts, parts) + np.eye(3) * (_DRIFT * predicted_s) ** 2
        covariance = self._covariance + drift
        gain = covariance @ counts
        variance = float(counts @ gain) + (_NOISE * predicted_s) ** 2
        self._covariance = covariance - np.outer(gain, gain) / variance
        self._parts_s = np.maximum(parts + gain * (error_s / variance), [0.0, 1e-6, 0.0])
