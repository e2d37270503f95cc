"""Ctrl-C that can't get lost.

A KeyboardInterrupt that is raised inside a callback of native code (JAX has some while it traces)
is dropped there. Deliberately does not know what is interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


@contextmanager
def interruptible() -> Iterator[None]:
    """Raises KeyboardInterrupt at Ctrl-C, and again at the end if the first was dropped."""
    interrupts: list[int] = []

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if interrupts:
        raise KeyboardInterrupt


def end_now() -> NoReturn:
    """Ends the process as after Ctrl-C: XLA crashes if Python ends beside a running step."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)
