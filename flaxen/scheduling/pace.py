"""Limits how many prompt tokens a step computes while other sequences wait for their next token.

A prompt's chunk makes the step longer for all sequences; how much depends on the machine.

Deliberately does not know: sequences, steps, the device.
"""

from __future__ import annotations

import math

from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.step_time import StepTime

_LEAST = 16  # tokens: a prompt always advances, however slow the machine
_AT_LEAST_S = 0.04  # a step this short is not noticed by readers
_SLOWDOWN = 3.0  # a step with prompts relative to one that only decodes, without a target
_LEAST_SLOWDOWN = 2.0  # the same with a target: prompts get at least half of each step
_MANY = 0.5  # prompts that a step completes per sequence that it delays
_QUEUE = 2.0  # prompts that wait for each sequence that decodes (decision 0369)
# After this many steps that the target limited, one step only decodes. Without it, steps of one
# size would not show how long decoding alone takes, and the limits above would drift.
_STEPS_A_LOOK = 15


class Pace:
    """Limits the prompt tokens of steps.

    Args:
      target_s: the target for the seconds between the ends of two steps; None derives it from the
          time of decoding.
      most: the most tokens, however fast the machine.
    """

    def __init__(self, target_s: float | None, most: int) -> None:
        self._target_s, self._most = target_s, most
        self._time = StepTime()
        self._num_cut = 0  # limited steps since the last one that only decoded

    def observe(self, num_tokens: int, num_scored: int, seconds: float) -> None:
        """Records the duration of a step, as in StepTime.observe."""
        self._time.observe(num_tokens, num_scored, seconds)

    @property
    def scored_price(self) -> float:
        """The cost of a prompt token with a log-probability; without one the cost is 1."""
        return 1.0 + self._time.scored_s / self._time.token_s

    def num_allowed(self, num_decoding: int, num_prompts: int, num_completed: int) -> int:
        """The number of prompt tokens that the next step may compute.

        As many as possible, if that completes many prompts and delays few sequences: then one long
        step costs less than several shorter ones. Also without a target, if many more sequences
        wait for their first token than for their next. Otherwise as many as the target allows.

        Args:
          num_decoding: the step's decoding sequences; at least 1.
          num_prompts: prompts that are computed or wait for that.
          num_completed: those of them that the step would complete without a limit.
        """
        if num_completed >= _MANY * num_decoding:
            return self._most
        if self._target_s is None and num_prompts >= _QUEUE * num_decoding:
            return self._most
        if self._num_cut == _STEPS_A_LOOK:
            self._num_cut = 0
            return 0
        self._num_cut += 1
        token_s = self._time.token_s
        decode_s = self._time.fixed_s + num_decoding * token_s
        if self._target_s is None:
            allowed_s = max(_AT_LEAST_S, _SLOWDOWN * decode_s)
        else:
            allowed_s = max(self._target_s, _LEAST_SLOWDOWN * decode_s)
        fitting = math.floor(min((allowed_s - decode_s) / token_s, self._most))
        return min(max(fitting, _LEAST), self._most)


def pace_of(config: EngineConfig) -> Pace | None:
    """The pace of an engine; None if there is no target."""
    target_ms = config.target_itl_ms
    if target_ms == 0:
        return None
    target_s = None if target_ms is None else target_ms / 1000
    return Pace(target_s, config.max_num_batched_tokens)
