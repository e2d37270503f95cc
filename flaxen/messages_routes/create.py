"""POST /v1/messages: an answer in blocks, whole or streamed.

Deliberately does not know: blocks of requests, prompts, sampling.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen.messages_routes.answer_blocks import BlockEvents, whole_blocks
from flaxen.messages_routes.bodies import chat_body
from flaxen.protocol import Finish, FinishReason, Request
from flaxen.server.context import Context
from flaxen.server.error_answers import anthropic_error_body
from flaxen.server.generation import chat, fields_without_effect
from flaxen.server.generation.answer import Asked, BodyForm, begin, read_request
from flaxen.server.generation.bodies import ChatBody
from flaxen.server.generation.engine_streams import EngineStreams
from flaxen.server.generation.message import MessageForm, ShownEvents
from flaxen.server.sse import EventForm, EventStreamResponse, named_event, unless_disconnected
from flaxen.server.usage import Usage

_EVENTS = EventForm[dict[str, Any]](
    encode=named_event, error=lambda error: named_event(anthropic_error_body(error)), end=b""
)


async def create(context: Context, http: HttpRequest) -> Response:
    """Answers POST /v1/messages."""
    flatten = functools.partial(chat_body, context=context)
    read = await read_request(context, http, replace(_BODY, flatten=flatten))
    view = read.view
    streams, usage = await begin(context, http, read, _BODY.field_names)
    if read.asked.common.stream:
        events = _stream(view, streams, usage)
        return EventStreamResponse(events, streams.close, http.state.log.noted, _EVENTS)
    try:
        whole = await unless_disconnected(http.receive, _collect(view, streams, usage))
    finally:
        await streams.close()
    return Response(status_code=499) if whole is None else JSONResponse(whole)


@dataclass(frozen=True, kw_only=True)
class _View:
    """Everything that is needed to write the answer."""

    answer_id: str
    model: str
    form: MessageForm
    is_cut: bool  # max_tokens is what the model's length leaves, and less than was asked for

    def message(self, content: list[dict[str, Any]], usage: Usage) -> dict[str, Any]:
        """An answer that has not ended."""
        return {
            "id": self.answer_id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage_json(usage) | {"service_tier": "standard"},
        }

    def stop(self, finish: Finish | None, *, num_calls: int) -> dict[str, Any]:
        """How the answer ended."""
        assert finish is not None, "the streams have ended with an error otherwise"
        sequence = finish.stop_reason if isinstance(finish.stop_reason, str) else None
        if finish.reason is FinishReason.LENGTH:
            reason = "model_context_window_exceeded" if self.is_cut else "max_tokens"
        elif num_calls:
            reason = "tool_use"
        else:
            reason = "end_turn" if sequence is None else "stop_sequence"
        return {"stop_reason": reason, "stop_sequence": sequence}


async def _parse(context: Context, body: ChatBody, asked: Asked) -> tuple[list[Request], _View]:
    wanted = body.max_tokens
    assert wanted is not None, "chat_body has checked it"
    [request], view = await chat.parse(context, body.model_copy(update={"max_tokens": None}), asked)
    # Agents ask for as much as their usual model has. What there is no room for is told by the
    # answer's stop_reason.
    room = context.engine.info.max_model_len - len(request.prompt_token_ids)
    sampling = replace(request.sampling, max_tokens=min(wanted, room))
    answer = _View(
        answer_id=asked.answer_id, model=asked.model, form=view.message, is_cut=wanted > room
    )
    return [replace(request, sampling=sampling)], answer


async def _collect(view: _View, streams: EngineStreams, usage: Usage) -> dict[str, Any]:
    texts, finish = [], None
    async for _, event in streams.events():
        usage.count(event)
        texts.append(event.text)
        finish = event.finish
    shown = ShownEvents(view.form)
    content = whole_blocks(shown.push("".join(texts), is_last=True))
    return view.message(content, usage) | view.stop(finish, num_calls=shown.num_calls)


async def _stream(
    view: _View, streams: EngineStreams, usage: Usage
) -> AsyncGenerator[dict[str, Any], None]:
    yield {"type": "message_start", "message": view.message([], usage)}
    yield {"type": "ping"}
    shown, blocks, finish = ShownEvents(view.form), BlockEvents(), None
    async for _, event in streams.events():
        usage.count(event)
        finish = event.finish
        for each in blocks.push(shown.push(event.text, is_last=finish is not None)):
            yield each
    for each in blocks.close():
        yield each
    yield {
        "type": "message_delta",
        "delta": view.stop(finish, num_calls=shown.num_calls),
        "usage": _usage_json(usage),  # only now it is known what was found in the cache
    }
    yield {"type": "message_stop"}


def _usage_json(usage: Usage) -> dict[str, Any]:
    """The tokens of the prompt are those that were computed and those that were in the cache. None
    is written there at a price of its own.
    """
    return {
        "input_tokens": usage.num_prompt - usage.num_cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.num_cached,
        "output_tokens": usage.num_output,
    }


_BODY = BodyForm(
    id_prefix="msg",
    body=ChatBody,
    without_effect=fields_without_effect.CHAT,
    field_names={"prompt_token_ids": "messages", "stop": "stop_sequences"},
    parse=_parse,
)
