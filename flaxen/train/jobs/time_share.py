"""Training beside serving: what share of the time is the trainer's while requests run.

Deliberately does not know what either of them computes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

_SLICE_S = 0.01  # between two looks at who is waiting


@dataclass(frozen=True, kw_only=True)
class TimeShare:
    """Waits after each piece of work for as long as others are to have the machine alone.

    Raises:
      ValueError: a share that is not above 0 and at most 1.
    """

    share: float  # of the time, while others are busy; 1 never waits
    is_busy: Callable[[], bool]  # whether others want the machine
    clock: Callable[[], float] = time.monotonic  # seconds
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(
                f"the share of fine-tuning must be above 0 and at most 1, got {self.share}"
            )

    def rest(self, worked_s: float, should_stop: Callable[[], bool]) -> None:
        """Returns after the share's wait for `worked_s` seconds of work, or once nobody is busy.

        Args:
          worked_s: how long the last piece took, in seconds.
          should_stop: ends the wait at once.
        """
        end = self.clock() + worked_s * (1 - self.share) / self.share
        while (left := end - self.clock()) > 0 and self.is_busy() and not should_stop():
            self.sleep(min(left, _SLICE_S))
