"""Stops a reader of records between two pieces of work, by an exception of its own type, so that it
is never mistaken for a fault in the records.
"""

from __future__ import annotations

from collections.abc import Callable

ShouldStop = Callable[[], bool]


class StoppedError(Exception):
    """The reader was asked to stop; nothing is wrong with the records."""


def never() -> bool:
    """A `should_stop` for a reader that nobody stops."""
    return False


def check_stop(should_stop: ShouldStop) -> None:
    """Raises StoppedError if the work should stop.

    Raises:
      StoppedError: should_stop returned True.
    """
    if should_stop():
        raise StoppedError
