"""How a reader of records is stopped: between two pieces of work, by an exception of its own, so
that it is never taken for a fault in the records.
"""

from __future__ import annotations

from collections.abc import Callable

ShouldStop = Callable[[], bool]


class StoppedError(Exception):
    """Whoever reads the records was asked to stop; nothing is wrong with them."""


def never() -> bool:
    """For a reader that nobody stops."""
    return False


def check_stop(should_stop: ShouldStop) -> None:
    """Goes on, unless it is to stop.

    Raises:
      StoppedError: should_stop says so.
    """
    if should_stop():
        raise StoppedError
