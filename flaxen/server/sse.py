"""Server-sent events, and watching for the client to leave.

Deliberately does not know the contents of events.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from flaxen.server.errors import ApiError, as_api_error, error_body

_T = TypeVar("_T")

# ASCII only: some readers of event streams also break lines at U+2028 and similar characters.
to_json = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode


class EventStreamResponse(Response):
    """Sends each JSON text as one event, then [DONE]; an error becomes the last event before it.

    Args:
      events: the JSON texts.
      close: awaited once the stream is over, however it ended; it frees the source of the events.
      on_error: called with an error of the source.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[str, None],
        close: Callable[[], Awaitable[None]],
        on_error: Callable[[ApiError], None],
    ) -> None:
        self.status_code = 200
        self.background = None
        # Otherwise nginx would buffer the events.
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._events = events
        self._close = close
        self._on_error = on_error

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
                await _send_event(send, event)
        except Exception as error:
            # The status was already sent, so the error can only be an event.
            api_error = as_api_error(error)
            self._on_error(api_error)
            await _send_event(send, to_json(error_body(api_error)))
        await _send_event(send, "[DONE]")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_event(send: Send, data: str) -> None:
    body = b"data: " + data.encode("ascii") + b"\n\n"
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
