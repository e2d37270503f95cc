"""Responses that run in the background: their events so far, for whoever asks for them.

Deliberately does not know: how a response is made, HTTP.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable

from flaxen.responses_routes.stored import StoredResponse
from flaxen.server.errors import ApiError
from flaxen.server.sse import EventForm, named_event


def _error(error: ApiError) -> bytes:
    """The event of a fault of the server's own: others are told by the response."""
    fields = {"code": error.code, "message": error.message, "param": error.param}
    return named_event({"type": "error", "sequence_number": 0, **fields})


# The events of a response, which are kept as they are sent.
EVENTS = EventForm[bytes](encode=bytes, error=_error, end=b"")


class Run:
    """One response that runs, or has run, in the background. Final.

    Args:
      snapshot: gives the response as it is now, and the items of its input.
      cancel: makes it end soon.
    """

    def __init__(self, snapshot: Callable[[], StoredResponse], cancel: Callable[[], None]) -> None:
        self.num_bytes = 0  # of all events
        # None once it is over: both hold the engine, whose model may be unloaded then.
        self._source: tuple[Callable[[], StoredResponse], Callable[[], None]] | None = (
            snapshot,
            cancel,
        )
        self._events: list[bytes] = []
        self._changed = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether no event follows."""
        return self._source is None

    def snapshot(self) -> StoredResponse | None:
        """The response as it is now, and the items of its input; None once it is over."""
        return None if self._source is None else self._source[0]()

    def cancel(self) -> None:
        """Makes it end soon."""
        if self._source is not None:
            self._source[1]()

    def add(self, event: bytes) -> None:
        """Adds the next event, as it is sent."""
        self._events.append(event)
        self.num_bytes += len(event)
        self._notify()

    def end(self) -> None:
        """Says that no event follows."""
        self._source = None
        self._notify()

    async def wait(self) -> None:
        """Waits for the end."""
        while not self.is_over:
            await self._changed.wait()

    async def follow(self, after: int = -1) -> AsyncGenerator[bytes, None]:
        """The events with numbers above `after`, those to come included."""
        number = after + 1
        while True:
            while number < len(self._events):
                yield self._events[number]
                number += 1
            if self.is_over:
                return
            await self._changed.wait()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Runs:
    """The background responses of one server by their ids. Final.

    Args:
      max_bytes: the most bytes of the events of those that are over; the oldest go first.
    """

    def __init__(self, max_bytes: int = 16 * 2**20) -> None:
        self._max_bytes = max_bytes
        self._runs: OrderedDict[str, Run] = OrderedDict()

    def add(self, response_id: str, run: Run) -> None:
        """Adds a run that begins."""
        self._runs[response_id] = run

    def get(self, response_id: str) -> Run | None:
        """The run of a response; None if it never ran here, or its events are not kept any more."""
        return self._runs.get(response_id)

    def drop(self, response_id: str) -> None:
        """Forgets a run."""
        self._runs.pop(response_id, None)

    def tidy(self) -> None:
        """Forgets the oldest runs that are over, while there are too many events."""
        over = [(name, run) for name, run in self._runs.items() if run.is_over]
        num_bytes = sum(run.num_bytes for _, run in over)
        for name, run in over:
            if num_bytes <= self._max_bytes:
                return
            num_bytes -= run.num_bytes
            del self._runs[name]
