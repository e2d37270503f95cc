"""How whoever reads records is stopped: between two pieces of work, by an exception that is no
fault of the records'.
"""

from __future__ import annotations

from collections.abc import Callable

ShouldStop = Callable[[], bool]


class StoppedError(Exception):
    """Whoever reads the records was asked to stop; nothing is wrong with them."""


def never() -> bool:
    """For who is not stopped."""
    return False


def check_stop(should_stop: ShouldStop) -> None:
    """Goes on, unless it is to stop.

    Raises:
      StoppedError: should_stop says so.
    """
    if should_stop():
        raise StoppedError
