"""Compiles an engine's remaining programs on a thread of its own, beside the steps.

Deliberately does not know what is compiled.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from flaxen.engine.freed_memory import return_freed_memory

_LOG = logging.getLogger(__name__)
_POLL_S = 0.02


class BackgroundCompiler:
    """Compiles one program after the other until none is left, or until `stop`.

    Compiling takes the interpreter's lock and a processor from the requests that run. So it waits
    until none does, but not for ever.

    Args:
      compile_next: compiles one program; returns False if none was left.
      is_busy: whether requests run.
      after_s: seconds before the first one, for what else a start has to do.
      patience_s: the most seconds to wait for the end of requests before each.
    """

    def __init__(
        self,
        compile_next: Callable[[], bool],
        is_busy: Callable[[], bool],
        *,
        after_s: float,
        patience_s: float = 1.0,
    ) -> None:
        self._compile_next, self._is_busy = compile_next, is_busy
        self._after_s, self._patience_s = after_s, patience_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flaxen-compile", daemon=True)
        self._thread.start()

    def stop(self) -> threading.Thread:
        """Returns the thread, which ends once the current program is compiled."""
        self._stopping.set()
        return self._thread

    def _run(self) -> None:
        self._stopping.wait(self._after_s)
        try:
            while not self._stops_before_the_next():
                return_freed_memory()  # the compiler takes up to 100 MB for each program
                if not self._compile_next():
                    return
        except Exception:
            # A bug of ours, or no memory. Steps that need a program compile it themselves.
            _LOG.exception("programs are no longer compiled in advance")

    def _stops_before_the_next(self) -> bool:
        until_s = time.monotonic() + self._patience_s
        while self._is_busy() and time.monotonic() < until_s:
            if self._stopping.wait(_POLL_S):
                return True
        return self._stopping.is_set()
