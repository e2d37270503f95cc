"""Server-sent events, and watching for the client to leave.

Deliberately does not know the contents of events.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from flaxen.server.error_answers import error_body
from flaxen.server.errors import ApiError, as_api_error

_T = TypeVar("_T")
_Item = TypeVar("_Item")

# ASCII only: some readers of event streams also break lines at U+2028 and similar characters.
to_json = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode


@dataclass(frozen=True, kw_only=True)
class EventForm(Generic[_Item]):
    """How an API writes the events of a stream."""

    encode: Callable[[_Item], bytes]
    error: Callable[[ApiError], bytes]  # the event of an error, after which comes the end
    end: bytes  # what comes behind the last event


def _data_event(text: str) -> bytes:
    return b"data: " + text.encode("ascii") + b"\n\n"


def named_event(event: dict[str, Any]) -> bytes:
    """An event with the name that is its `type`."""
    return f"event: {event['type']}\ndata: {to_json(event)}\n\n".encode("ascii")


# OpenAI's chunks, as texts of JSON.
DATA_EVENTS = EventForm[str](
    encode=_data_event,
    error=lambda error: _data_event(to_json(error_body(error))),
    end=_data_event("[DONE]"),
)


class EventStreamResponse(Response, Generic[_Item]):
    """Sends events, then their form's end; an error becomes the last event before it.

    Args:
      events: what becomes an event each.
      close: awaited once the stream is over, however it ended; it frees the source of the events.
      on_error: called with an error of the source.
      form: how events are written.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[_Item, None],
        close: Callable[[], Awaitable[None]],
        on_error: Callable[[ApiError], None],
        form: EventForm[_Item],
    ) -> None:
        self.status_code = 200
        self.background = None
        # Otherwise nginx would buffer the events.
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._events = events
        self._close = close
        self._on_error = on_error
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_disconnected(receive, self._send(send))
        finally:
            await self._close()
            await self._events.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for event in self._events:
                await _send_event(send, self._form.encode(event))
        except Exception as error:
            # The status was already sent, so the error can only be an event.
            api_error = as_api_error(error)
            self._on_error(api_error)
            await _send_event(send, self._form.error(api_error))
        if self._form.end:
            await _send_event(send, self._form.end)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_event(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T | None:
    """Runs the work. If the client disconnects first, cancels it and returns None."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        # Both are awaited, so that neither runs any longer.
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
