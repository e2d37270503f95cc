"""Pauses between the pieces of a job's work, in which requests run and the job can stop.

Deliberately does not know the pieces, or the length of a pause.
"""

from __future__ import annotations

import time

from flaxen.data.stopping import StoppedError
from flaxen.training.jobs.spec import JobCallbacks


class Pauses:
    """The pauses of one job, on its thread. Final.

    The first piece of each kind mostly compiles, so its duration is not used: resting several times
    as long would delay the job for minutes.
    """

    def __init__(self, callbacks: JobCallbacks) -> None:
        self._callbacks = callbacks
        self._kinds: set[str] = set()  # kinds of work that have run once
        self._since_s = time.monotonic()

    def begin(self) -> None:
        """Starts timing the work."""
        self._since_s = time.monotonic()

    def skip_first(self, kind: str) -> None:
        """Restarts the timing if the work so far was the first of its kind."""
        if kind not in self._kinds:
            self._kinds.add(kind)
            self.begin()

    def after(self, kind: str) -> None:
        """Rests after a piece of work.

        Raises:
          StoppedError: the job should stop.
        """
        worked_s = time.monotonic() - self._since_s if kind in self._kinds else 0.0
        self._kinds.add(kind)
        self._callbacks.rest(worked_s)
        if self._callbacks.should_stop():
            raise StoppedError
        self.begin()
