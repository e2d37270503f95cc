"""POST /v1/chat/completions/batch, as vLLM has it: several chats in one request, answered at once.

Deliberately does not know how a chat is answered.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from flaxen.protocol import Request
from flaxen.server.context import Context
from flaxen.server.errors import invalid, unsupported
from flaxen.server.generation import chat
from flaxen.server.generation.answer import Asked, BodyForm, Route, answer
from flaxen.server.generation.answer_json import WholeSequence
from flaxen.server.generation.bodies import ChatBody
from flaxen.server.generation.engine_streams import EngineStreams
from flaxen.server.usage import Usage

_Chats = list[tuple[Request, chat.ChatView]]


async def create(context: Context, http: HttpRequest) -> Response:
    """Answers POST /v1/chat/completions/batch: a chat's answer with a choice for each chat."""
    return await answer(context, http, _ROUTE)


async def _parse(context: Context, body: ChatBody, asked: Asked) -> tuple[list[Request], _Chats]:
    """What the chats ask of the engine, one request for each.

    Raises:
      ApiError: 400, there are no chats or too many, the body asks for what only one chat has; or
          as in `chat.parse`.
    """
    for name, is_asked in (
        ("n", asked.common.n not in (None, 1)),
        ("use_beam_search", asked.common.use_beam_search),
        ("tools", body.tools),
        ("prediction", body.prediction),
        ("prompt_logprobs", asked.common.prompt_logprobs is not None),
    ):
        if is_asked:
            raise unsupported(
                f"{name} is refused for several chats in one request: use /v1/chat/completions",
                name,
            )
    limit = context.config.max_prompts
    if not 0 < len(body.messages) <= limit or not all(
        isinstance(each, list) for each in body.messages
    ):
        raise invalid(
            f"messages must hold 1 to {limit} chats on this server, each a list of messages",
            "messages",
        )
    chats: _Chats = []
    for index, messages in enumerate(body.messages):
        own = body.model_copy(update={"messages": messages})
        [request], view = await chat.parse(context, own, asked)
        chats.append((replace(request, request_id=f"{asked.engine_id}-{index}"), view))
    return [request for request, _ in chats], chats


async def _collect(chats: _Chats, streams: EngineStreams, usage: Usage) -> dict[str, Any]:
    sequences = [WholeSequence() for _ in chats]
    async for i, event in streams.events():
        usage.count(event)
        sequences[i].add(event)
    choices = [
        chat.whole_choice(view, index, sequence)
        for index, ((_, view), sequence) in enumerate(zip(chats, sequences, strict=True))
    ]
    return {"choices": choices, "prompt_token_ids": None, "prompt_logprobs": None}


_ROUTE = Route(
    reads=BodyForm(
        id_prefix=chat.BODY.id_prefix,
        body=ChatBody,
        without_effect=chat.BODY.without_effect,
        field_names=chat.BODY.field_names,
        parse=_parse,
    ),
    object="chat.completion",
    chunk_object="chat.completion.chunk",
    collect=_collect,
    stream=None,
)
