"""The limit of what all readers together have not read.

Deliberately does not know engines, or how unread events are kept.
"""

from __future__ import annotations

import threading
import weakref

from flaxen.engine.event_stream import EventStream
from flaxen.protocol import ReaderTooSlowError


class UnreadLimit:
    """Ends the request whose reader is furthest behind, if too much is unread in total. Safe to
    call from any thread.

    Args:
      max_bytes: the most bytes of unread events of all streams.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        # Also of requests that have ended: their events may be unread.
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()

    def add(self, stream: EventStream) -> None:
        """Counts a stream for as long as somebody holds it."""
        with self._lock:
            self._streams.add(stream)

    def enforce(self) -> None:
        """Ends a request if the limit is passed."""
        with self._lock:
            unread = [(stream.num_unread_bytes, stream) for stream in self._streams]
        if sum(num_bytes for num_bytes, _ in unread) <= self._max_bytes:
            return
        num_bytes, worst = max(unread, key=lambda each: each[0])
        worst.cut_off(
            ReaderTooSlowError(
                f"{num_bytes} bytes of this answer wait to be read, and all that wait together may "
                f"be {self._max_bytes} bytes: read faster, or ask for fewer tokens, sequences or "
                "logprobs at once"
            )
        )
