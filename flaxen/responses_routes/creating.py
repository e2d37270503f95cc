"""POST /v1/responses: answered whole, as a stream, or at once with what runs in the background.

Deliberately does not know: how a body is read, how a response is written.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from starlette.background import BackgroundTask
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen.responses_routes.asking import FIELD_NAMES, View, read_response_request
from flaxen.responses_routes.output import Event
from flaxen.responses_routes.responses import Responses
from flaxen.responses_routes.runs import EVENTS, Run
from flaxen.responses_routes.stored import StoredResponse
from flaxen.responses_routes.writer import ResponseWriter
from flaxen.server.context import Context
from flaxen.server.errors import as_api_error
from flaxen.server.generation.answer import ReadRequest, begin
from flaxen.server.generation.engine_streams import EngineStreams
from flaxen.server.request_log import RequestLog
from flaxen.server.sse import EventStreamResponse, named_event, unless_disconnected


async def create(responses: Responses, context: Context, http: HttpRequest) -> Response:
    """Answers POST /v1/responses.

    Raises:
      ApiError: as in `read_response_request`; and what the engine refuses.
    """
    read = await read_response_request(context, http, responses.store)
    streams, usage = await begin(context, http, read, FIELD_NAMES)
    writer = ResponseWriter(read.asked, read.view, usage)
    making = _Making(responses, context, read, writer, streams, http.state.log)
    is_streamed = bool(read.asked.common.stream)
    if read.view.body.background:
        return await _in_background(responses, making, is_streamed=is_streamed)
    if is_streamed:
        return EventStreamResponse(making.sent(), making.close, making.log.noted, EVENTS)
    try:
        is_there = await unless_disconnected(http.receive, making.to_end())
    finally:
        await making.close()
    return JSONResponse(writer.response()) if is_there else Response(status_code=499)


async def _in_background(responses: Responses, making: _Making, *, is_streamed: bool) -> Response:
    """Answers with what runs on, whether the client stays or leaves.

    The request's call of the application lasts until the response has ended: so its line of the log
    has all of it, and its model stays in memory.
    """
    run = Run(making.stored, making.cancel)
    first = making.stored()
    try:
        await responses.store.put(first)
    except BaseException:  # whatever it was, nobody would read the engine's events; it goes on
        await making.close()
        raise
    responses.runs.add(first.id, run)
    running = asyncio.ensure_future(making.run(run))

    async def until_end() -> None:
        await running

    if is_streamed:
        return EventStreamResponse(run.follow(), until_end, making.log.noted, EVENTS)
    return JSONResponse(dict(first.response), background=BackgroundTask(until_end))


@dataclass
class _Making:
    """A response that is being made. The creator must await `close`, or `run`, which does it."""

    responses: Responses
    context: Context
    read: ReadRequest[View]
    writer: ResponseWriter
    streams: EngineStreams
    log: RequestLog
    is_cancelled: bool = False

    async def close(self) -> None:
        """Ends the streams."""
        await self.streams.close()

    def stored(self) -> StoredResponse:
        """The response as it is now, and the items of its input."""
        return StoredResponse(response=self.writer.response(), items=self.read.view.items)

    def cancel(self) -> None:
        """Ends the response soon."""
        self.is_cancelled = True
        for request in self.read.requests:
            self.context.engine.abort(request.request_id)

    async def to_end(self) -> bool:
        """Makes the whole response, and keeps it. Returns True.

        Raises:
          ApiError: it failed.
        """
        async for _, event in self.streams.events():
            self.writer.push(event)
        await self._keep()
        return True

    async def sent(self) -> AsyncGenerator[bytes, None]:
        """The events of a stream, as they are sent."""
        async with contextlib.aclosing(self._events()) as events:
            async for event in events:
                yield named_event(event)

    async def run(self, run: Run) -> None:
        """Makes the response, and adds its events to a run."""
        try:
            async for event in self.sent():
                run.add(event)
        finally:
            run.end()
            self.responses.runs.tidy()
            await self.close()

    async def _events(self) -> AsyncGenerator[Event, None]:
        """All events, the last of which tells how the response ended: it is kept before that."""
        writer = self.writer
        for event in writer.begin():
            yield event
        try:
            async for _, token_event in self.streams.events():
                for event in writer.push(token_event):
                    yield event
        except Exception as error:  # whatever it was, the stream says that the response failed
            if self.is_cancelled:
                ends = writer.cancel()
            else:
                api_error = as_api_error(error)
                self.log.noted(api_error)
                ends = writer.fail(api_error)
            for event in ends:
                yield event
        await self._keep()
        yield writer.last()

    async def _keep(self) -> None:
        if self.read.view.body.store is not False:
            await self.responses.store.put(self.stored())


async def count_input_tokens(responses: Responses, context: Context, http: HttpRequest) -> Response:
    """Answers POST /v1/responses/input_tokens: the tokens of the same body's prompt.

    Raises:
      ApiError: as in `read_response_request`.
    """
    read = await read_response_request(context, http, responses.store)
    count = sum(len(each.prompt_token_ids) for each in read.requests)
    return JSONResponse({"object": "response.input_tokens", "input_tokens": count})
