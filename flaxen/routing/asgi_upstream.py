"""AsgiUpstream: the models of this process, whose application is called like a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.types import ASGIApp, Message

from flaxen.routing.upstream import Answer, Call, UpstreamError


class AsgiUpstream:
    """Calls an application. What it sends is taken chunk by chunk, so that it waits for a slow
    reader as for a slow connection.

    Args:
      app: an ASGI application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def send(self, call: Call) -> Answer:
        """As Upstream says."""
        sent: asyncio.Queue[Message | Exception] = asyncio.Queue(1)
        running = asyncio.create_task(self._run(call, sent))
        try:
            start = _message(await sent.get())
        except BaseException:  # also where the caller is cancelled: nobody else knows the task
            await _end(running)
            raise
        headers = tuple(
            (name.decode(), value.decode("latin-1")) for name, value in start["headers"]
        )
        chunks = _chunks(sent, running)
        return Answer(status=start["status"], headers=headers, chunks=chunks)

    async def _run(self, call: Call, sent: asyncio.Queue[Message | Exception]) -> None:
        body: list[Message] = [{"type": "http.request", "body": call.body, "more_body": False}]

        async def receive() -> Message:
            if not body:
                await asyncio.Event().wait()  # the client's end comes as a cancellation
            return body.pop()

        headers = [(name.encode(), value.encode("latin-1")) for name, value in call.headers]
        own = {"method": call.method, "path": call.path, "root_path": "", "headers": headers}
        try:
            await self._app({**call.scope, **own}, receive, sent.put)
            await sent.put(UpstreamError("it ended without an end of its answer"))
        except Exception as error:  # whatever an application raises: the caller tries another
            await sent.put(error)


async def _chunks(
    sent: asyncio.Queue[Message | Exception], running: asyncio.Task[None]
) -> AsyncGenerator[bytes, None]:
    try:
        more = True
        while more:
            message = _message(await sent.get())
            if message.get("body"):
                yield message["body"]
            more = message.get("more_body", False)
        await running  # frees what the request held
    finally:
        await _end(running)


def _message(sent: Message | Exception) -> Message:
    if isinstance(sent, Exception):
        raise UpstreamError(f"the model failed: {sent!r}") from sent
    return sent


async def _end(running: asyncio.Task[None]) -> None:
    running.cancel()
    await asyncio.wait((running,))
