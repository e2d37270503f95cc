"""Ctrl-C and SIGTERM: they end the process at once, unless a command has something to finish.

Python's own handler raises KeyboardInterrupt, and that is not safe here. Native code that calls
Python (JAX, while it traces) drops the exception; an import that is cut in half reports an
ImportError; and when Python shuts down beside a running compilation or step, XLA's thread is ended
inside C++ and the process aborts. Nothing needs the shutdown: everything that must survive is
already on disk, because a run may also be killed at any moment.

Deliberately does not know what is interrupted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn, TypeVar

_T = TypeVar("_T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_RESEND_S = 0.1
_SHOW_CURSOR = "\x1b[?25h"  # a progress bar may have hidden the cursor


class _Signalled(BaseException):
    """Raised by a signal inside `unwind_first`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Interrupted(Exception):
    """Ctrl-C came where the caller of `unwind_first` wants to go on."""


def end_at_signals() -> None:
    """Makes SIGINT and SIGTERM end the process with 130 and 143 from now on.

    A command with something to finish sets handlers of its own: `serve` drains, `chat` stops the
    answer. Python runs a handler between two bytecodes, so the end waits for a call into native
    code that the main thread is in, such as the compilation of one function.
    """
    for number in _SIGNALS:
        signal.signal(number, _on_signal)


def ignore_signals() -> None:
    """Ignores signals during Python's shutdown, so that the process keeps its exit code.

    Python restores the system's action there, which would end the process as if it had failed.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _on_signal(number: int, frame: FrameType | None) -> None:
    end_now(number)


def unwind_first(read: Callable[[], _T], *, goes_on: bool = False) -> _T:
    """Calls a function that has something to put in order as it unwinds.

    `input` with readline turns off the terminal's echo; a half-written file is to be removed. A
    signal ends the process only after the function has unwound. A second signal does not wait for
    that: it puts back the settings that the terminal had before the call. The function must not run
    native code that would drop an exception. It is called in the main thread, where Python runs the
    handlers.

    Args:
      read: the function.
      goes_on: raise Interrupted at the first Ctrl-C in place of ending the process.
    """
    raised = False
    restore_terminal = _terminal_settings()

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal raised
        if raised:
            restore_terminal()
            end_now(number)
        raised = True
        raise _Signalled(number)

    previous = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        try:
            for number in _SIGNALS:
                signal.signal(number, on_signal)
            with _interrupted_until(lambda: raised):
                return read()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    except _Signalled as signalled:
        if goes_on and signalled.number == signal.SIGINT:
            raise Interrupted from None
        end_now(signalled.number)


@contextlib.contextmanager
def _interrupted_until(noticed: Callable[[], bool]) -> Iterator[None]:
    """Sends a signal to the main thread again while its handler has not run.

    CPython looks for a signal that came while it prints the prompt, and then waits for a key: a
    signal in between would be noticed at the next key only. A second one ends the wait.
    """
    receive, send = os.pipe()
    os.set_blocking(send, False)  # what Python demands of it
    main = threading.get_ident()

    def resend() -> None:
        with open(receive, "rb", buffering=0) as numbers:
            while number := numbers.read(1):
                while number[0] in _SIGNALS and not (is_over or noticed()):
                    time.sleep(_RESEND_S)  # nearly always the first signal has sufficed
                    if not (is_over or noticed()):
                        signal.pthread_kill(main, number[0])

    is_over = False
    thread = threading.Thread(target=resend, name="signals", daemon=True)
    thread.start()
    previous = signal.set_wakeup_fd(send, warn_on_full_buffer=False)
    try:
        yield
    finally:
        is_over = True
        signal.set_wakeup_fd(previous)
        os.close(send)  # ends the thread


def _terminal_settings() -> Callable[[], None]:
    """Returns a function that restores the current settings of the input's terminal, if there is
    one.
    """
    try:
        settings = termios.tcgetattr(sys.stdin)
    except (termios.error, OSError, ValueError):  # no terminal, or closed
        return lambda: None

    def restore() -> None:
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(sys.stdin, termios.TCSANOW, settings)

    return restore


def end_now(number: int = signal.SIGINT) -> NoReturn:
    """Ends the process as if by a signal, without Python's shutdown."""
    # A stream that the signal has interrupted amid a write refuses to be used.
    with contextlib.suppress(RuntimeError, OSError, ValueError):
        if sys.stderr.isatty():
            sys.stderr.write(_SHOW_CURSOR + "\n")
        sys.stderr.flush()
    with contextlib.suppress(RuntimeError, OSError, ValueError):
        sys.stdout.flush()
    os._exit(128 + number)
