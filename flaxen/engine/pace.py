"""How many prompt tokens a step may compute while others wait for their next token.

A prompt's chunk makes everybody's step longer. How much, only the machine can tell, so the number
follows the time that steps took.

Deliberately does not know: sequences, steps, the device.
"""

from __future__ import annotations

_LEAST = 16  # tokens: a prompt goes on, however slow the machine
_FIRST = 64  # tokens, before any step was timed


class Pace:
    """Keeps the time between two tokens of a sequence near a target.

    Args:
      target_s: seconds from one step's end to the next one's.
      most: tokens, however fast the machine.
    """

    def __init__(self, target_s: float, most: int) -> None:
        self.num_tokens = min(_FIRST, most)
        self._target_s, self._most = target_s, most

    def observe(self, seconds: float) -> None:
        """Takes the time of a step that computed as many prompt tokens as it was allowed.

        One step may have been late for reasons of its own: it halves the number at most.
        """
        factor = min(max(self._target_s / seconds, 0.5), 1.25) if seconds > 0 else 1.25
        wanted = max(round(self.num_tokens * factor), min(_LEAST, self._most))
        self.num_tokens = min(wanted, self._most)
