"""The event stream of one request for one reader: an async iterator that can be closed.

Everything runs in the reader's event loop, except what says that any thread may call it.

Deliberately does not know: engines, other requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterable
from typing import final

from flaxen.engine.unread import Unread
from flaxen.protocol import Request, TokenEvent

_LOOK_BYTES = 2**14  # after this many unread bytes the total of all readers is checked


@final
class EventStream:
    """Must be created in the event loop where it is read.

    Args:
      request: the request.
      abort: called with this stream, at most once, to end its request early.
      on_behind: called whenever another few kilobytes are unread.
    """

    def __init__(
        self,
        request: Request,
        abort: Callable[[EventStream], None],
        on_behind: Callable[[], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.request_id = request.request_id
        self.num_running = request.sampling.n  # open sequences, as counted by the engine's thread
        self._abort, self._on_behind = abort, on_behind
        self._unread = Unread()
        self._error: Exception | None = None  # raised after the unread events
        self._arrived = asyncio.Event()
        self._num_open = request.sampling.n  # open sequences, as counted by the reader
        self._next_look_bytes = _LOOK_BYTES

    @property
    def num_unread_bytes(self) -> int:
        """The approximate size of the unread events. Safe to call from any thread."""
        return self._unread.num_bytes

    def put(self, item: TokenEvent | Exception) -> None:
        """Adds an event, or the error that ends the stream. Nothing follows an error."""
        if self._error is not None or not self._num_open:
            return
        if isinstance(item, Exception):
            self._error = item
        else:
            self._unread.put(item)
        self._arrived.set()
        if self._unread.num_bytes >= self._next_look_bytes:
            self._next_look_bytes = self._unread.num_bytes + _LOOK_BYTES
            self._on_behind()

    def cut_off(self, error: Exception) -> None:
        """Ends the request early and discards the unread events; the reader gets the error instead.
        Safe to call from any thread.
        """
        call_soon(self.loop, functools.partial(self._fail, error))
        self._abort(self)  # no effect if it has ended and was only not read yet

    def _fail(self, error: Exception) -> None:
        if self._num_open:
            self._unread.clear()
            self._error = error
            self._arrived.set()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> TokenEvent:
        if not self._num_open:
            raise StopAsyncIteration
        while (event := self._unread.take()) is None:
            if self._error is not None:
                self._num_open = 0
                raise self._error
            self._arrived.clear()
            try:
                await self._arrived.wait()
            except asyncio.CancelledError:
                await self.aclose()
                raise
        self._next_look_bytes = self._unread.num_bytes + _LOOK_BYTES
        self._num_open -= event.finish is not None
        return event

    async def aclose(self) -> None:
        """Aborts the request unless it has ended; further reading ends at once."""
        self._unread.clear()
        if self._num_open:
            self._num_open = 0
            self._abort(self)


def call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Runs a callback in a reader's event loop, unless that is closed. Safe to call from any
    thread.
    """
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(callback)


def put_all(batch: Iterable[tuple[EventStream, TokenEvent]]) -> None:
    """Puts events of one event loop, there."""
    for stream, event in batch:
        stream.put(event)
