"""Pauses between the pieces of a job's work, in which others work, and at which a job can stop.

Deliberately does not know what the pieces are, or how long a pause is.
"""

from __future__ import annotations

import time

from flaxen.data.stopping import StoppedError
from flaxen.train.jobs.spec import JobCallbacks


class Pauses:
    """One job's, on its thread. Final.

    The first piece of each kind is mostly compiling: to rest for several times as long would hold
    up the job for minutes, for something that happens once.
    """

    def __init__(self, callbacks: JobCallbacks) -> None:
        self._callbacks = callbacks
        self._kinds: set[str] = set()  # kinds of work that were done once
        self._since_s = time.monotonic()

    def begin(self) -> None:
        """Counts the work from here on."""
        self._since_s = time.monotonic()

    def skip_first(self, kind: str) -> None:
        """Does not count the work so far if it was the first of its kind."""
        if kind not in self._kinds:
            self._kinds.add(kind)
            self.begin()

    def after(self, kind: str) -> None:
        """A piece of work is done.

        Raises:
          StoppedError: the job is to stop.
        """
        worked_s = time.monotonic() - self._since_s if kind in self._kinds else 0.0
        self._kinds.add(kind)
        self._callbacks.rest(worked_s)
        if self._callbacks.should_stop():
            raise StoppedError
        self.begin()
