"""Ctrl-C and SIGTERM: they end the process at once, unless a command has something to finish.

Python's own handler raises KeyboardInterrupt, and that is not safe here. Native code that calls
Python (JAX, while it traces) drops the exception; an import that is cut in half reports an
ImportError; and when Python shuts down beside a running compilation or step, XLA's thread is ended
inside C++ and the process aborts. Nothing needs the shutdown: what must survive is on the disk
already, because a run may be killed at any moment as well.

Deliberately does not know what is interrupted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

_SHOW_CURSOR = "\x1b[?25h"  # a progress bar has hidden it


def end_at_signals() -> None:
    """Makes SIGINT and SIGTERM end the process with 130 and 143 from now on.

    A command with something to finish sets handlers of its own: `serve` drains, `chat` stops the
    answer. Python runs a handler between two bytecodes, so the end waits for a call into native
    code that the main thread is in, such as the compilation of one function.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    end_now(number)


def end_now(number: int = signal.SIGINT) -> NoReturn:
    """Ends the process as after a signal, without Python's shutdown."""
    # A stream that the signal has interrupted amid a write refuses to be used.
    with contextlib.suppress(RuntimeError, OSError, ValueError):
        if sys.stderr.isatty():
            sys.stderr.write(_SHOW_CURSOR + "\n")
        sys.stderr.flush()
    with contextlib.suppress(RuntimeError, OSError, ValueError):
        sys.stdout.flush()
    os._exit(128 + number)
