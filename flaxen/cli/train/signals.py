"""Ctrl-C and SIGTERM in `flaxen train`: the step that is running is finished, and its state saved.

A second signal ends the process at once, as the first one does before there is anything to save.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from flaxen.cli.interrupt import end_now
from flaxen.runs.stopping import Stop, stop_at_signals

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STDERR = 2


@contextmanager
def end_before_training() -> Iterator[None]:
    """Makes a signal end the process, and say that nothing was trained."""

    def end(number: int) -> None:
        _say("nothing was trained, so nothing is saved")
        end_now(number)

    with stop_at_signals(_SIGNALS, at_first=end, at_second=end):
        yield


@contextmanager
def stop_after_step() -> Iterator[Stop]:
    """Yields what a signal sets, for a run to look at before each step."""

    def wait(number: int) -> None:
        _say("stopping once the current step is done and saved; Ctrl-C again ends at once")

    with stop_at_signals(_SIGNALS, at_first=wait, at_second=end_now) as stop:
        yield stop


def _say(text: str) -> None:
    """Writes past Python's streams, which a signal may have interrupted amid a write."""
    os.write(_STDERR, f"\n{text}\n".encode())
