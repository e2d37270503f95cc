"""How many prompt tokens a step may compute while others wait for their next token.

A prompt's chunk makes everybody's step longer. How much, only the machine can tell.

Deliberately does not know: sequences, steps, the device.
"""

from __future__ import annotations

import math

from flaxen.engine.step_time import StepTime

_LEAST = 16  # tokens: a prompt goes on, however slow the machine
_AT_LEAST_S = 0.04  # a step this short disturbs nobody who reads
_SLOWDOWN = 3.0  # a step with prompts over one that only decodes, where no target was given
_LEAST_SLOWDOWN = 2.0  # the same where one was given: prompts get half of each step at least
_MANY = 0.5  # prompts that a step completes for each sequence that it keeps waiting
# After so many steps that the target cut, one decodes only. Without it, steps of one size would
# not tell what decoding alone takes, and the bounds above would drift away with a wrong guess.
_STEPS_A_LOOK = 15


class Pace:
    """Bounds the prompts' part of steps.

    Args:
      target_s: seconds from one step's end to the next one's; None: chosen from what the machine
        takes to decode.
      most: tokens, however fast the machine.
    """

    def __init__(self, target_s: float | None, most: int) -> None:
        self._target_s, self._most = target_s, most
        self._time = StepTime()
        self._num_cut = 0  # steps, since one last decoded only

    def observe(self, num_tokens: int, num_scored: int, seconds: float) -> None:
        """Takes the time of a step, as StepTime.observe."""
        self._time.observe(num_tokens, num_scored, seconds)

    @property
    def scored_price(self) -> float:
        """What a prompt token costs whose log-probability is wanted; another one costs 1."""
        return 1.0 + self._time.scored_s / self._time.token_s

    def num_allowed(self, num_decoding: int, num_completed: int) -> int:
        """How many prompt tokens the next step may compute.

        As many as it can, where that brings first tokens to many and keeps few waiting: then one
        long step costs less than several shorter ones. Else those that fit into the target.

        Args:
          num_decoding: sequences of the step that only wait for their next token; at least 1.
          num_completed: prompts whose end the step would compute, were it given all it can.
        """
        if num_completed >= _MANY * num_decoding:
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
