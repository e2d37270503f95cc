"""Lets a signal stop a run after the step that is running, so that its state can be saved.

Python's own KeyboardInterrupt may come in the middle of a save, and JAX drops it while it traces.
Deliberately does not know runs, or what the signals mean.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether a signal has come; `should_stop` of a run. Final."""

    def __init__(self) -> None:
        self.signal: int | None = None  # the number of the first

    def __call__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_at_signals(
    numbers: Sequence[int], at_first: Callable[[int], object], at_second: Callable[[int], object]
) -> Iterator[Stop]:
    """Yields a Stop that the first signal sets.

    Python allows signal handlers in the main thread only: in another one nothing is changed.

    Args:
      numbers: the signals.
      at_first: called in the handler of the first one, with its number.
      at_second: called in the handlers of the others.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop():
            at_second(number)
        else:
            stop.signal = number
            at_first(number)

    previous = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
