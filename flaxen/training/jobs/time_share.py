"""Training beside serving: limits the trainer's share of the time while requests run.

Deliberately does not know what trainer and engine compute.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

_SLICE_S = 0.01  # between two checks whether requests run


@dataclass(frozen=True, kw_only=True)
class TimeShare:
    """Waits after each piece of training work, so that requests have the machine alone meanwhile.

    Raises:
      ValueError: the share is not above 0 and at most 1.
    """

    share: float  # of the time, while requests run; 1 never waits
    is_busy: Callable[[], bool]  # whether requests run or wait
    clock: Callable[[], float] = time.monotonic  # seconds
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(
                f"the share of fine-tuning must be above 0 and at most 1, got {self.share}"
            )

    def rest(self, worked_s: float, should_stop: Callable[[], bool]) -> None:
        """Waits as the share demands after `worked_s` seconds of work, or until no request runs.

        Args:
          worked_s: the duration of the last piece of work.
          should_stop: ends the wait at once.
        """
        end = self.clock() + worked_s * (1 - self.share) / self.share
        while (left := end - self.clock()) > 0 and self.is_busy() and not should_stop():
            self.sleep(min(left, _SLICE_S))
