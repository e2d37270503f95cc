"""From a body of /v1/responses to what the engine is asked for: it becomes the body of a chat.

Knows: which of a chat's fields the body's are, and which old turns are dropped. Deliberately does
not know: how a response is written.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest

from flaxen.protocol import Request, SamplingParams
from flaxen.responses_routes.bodies import LOGPROBS, WITHOUT_EFFECT, ResponseBody, check_body
from flaxen.responses_routes.history import conversation, with_referenced
from flaxen.responses_routes.items import Item, read_items
from flaxen.responses_routes.messages import to_messages, turn_starts
from flaxen.responses_routes.stored import ResponseStore
from flaxen.responses_routes.text_format import with_response_format
from flaxen.responses_routes.tools import flat, nested_choice, nested_tools, offered
from flaxen.server.context import Context
from flaxen.server.errors import ApiError
from flaxen.server.generation import chat
from flaxen.server.generation.answer import Asked, BodyForm, ReadRequest, read_request
from flaxen.server.generation.bodies import ChatBody
from flaxen.server.schema import parse

# The engine's field names, where the body's differ.
FIELD_NAMES = {"prompt_token_ids": "input", "logprobs": "top_logprobs"}
# Places in the body of a chat, and where the same stands in a response's.
_PLACES = {
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
}


@dataclass(frozen=True, kw_only=True)
class View:
    """What writing a response needs of its request."""

    body: ResponseBody
    items: list[Item]  # of its own input
    chat: chat.ChatView
    sampling: SamplingParams


async def read_response_request(
    context: Context,
    http: HttpRequest,
    store: ResponseStore,
    *,
    flatten: Callable[[dict[str, Any]], dict[str, Any]] = with_response_format,
) -> ReadRequest[View]:
    """Reads a request.

    Args:
      context: the server's parts.
      http: the request.
      store: the responses that are kept.
      flatten: makes the fields of a response of the body that was sent.

    Raises:
      ApiError: 400, the body is invalid or exceeds a limit; 404, the response that it continues is
        not kept; and other errors of its parts.
    """
    form = BodyForm(
        id_prefix="resp",
        body=ResponseBody,
        without_effect=WITHOUT_EFFECT,
        field_names=FIELD_NAMES,
        parse=functools.partial(_parse, store),
        flatten=flatten,
    )
    with _naming_fields():
        return await read_request(context, http, form)


async def _parse(
    store: ResponseStore, context: Context, body: ResponseBody, asked: Asked
) -> tuple[list[Request], View]:
    check_body(body)
    items = await with_referenced(store, read_items(body.input))
    past = await conversation(store, body.previous_response_id)
    asked_chat = _as_chat(body, [*past, *items])
    if body.truncation == "auto":
        asked_chat = await _with_what_fits(context, asked_chat)
    [request], view = await chat.parse(context, asked_chat, asked)
    return [request], View(body=body, items=items, chat=view, sampling=request.sampling)


def _as_chat(body: ResponseBody, items: list[Item]) -> ChatBody:
    with_logprobs = LOGPROBS in (body.include or ())
    fields = {
        "messages": to_messages(items, body.instructions),
        "tools": nested_tools(offered(body.tools)),
        "tool_choice": nested_choice(body.tool_choice),
        "parallel_tool_calls": body.parallel_tool_calls,
        "max_completion_tokens": body.max_output_tokens,
        "logprobs": with_logprobs,
        "top_logprobs": body.top_logprobs if with_logprobs else None,
        "reasoning_effort": None if body.reasoning is None else body.reasoning.effort,
        "chat_template_kwargs": body.chat_template_kwargs,
        "thinking_token_budget": body.thinking_token_budget,
    }
    return parse(ChatBody, fields)


async def _with_what_fits(context: Context, body: ChatBody) -> ChatBody:
    """The chat without as many of the oldest turns as must be dropped for the rest to fit. The last
    turn stays.
    """
    most = context.engine.info.max_model_len - (body.max_completion_tokens or 1)
    starts = turn_starts(body.messages)

    async def fits(shorter: ChatBody) -> bool:
        prompt, _ = await chat.read_prompt(context, shorter)
        return len(prompt.token_ids) <= most

    def beginning_at(turn: int) -> ChatBody:
        kept = [*body.messages[: starts[0]], *body.messages[starts[turn] :]]
        return body.model_copy(update={"messages": kept})

    if len(starts) < 2 or await fits(body):
        return body
    # From turns before `low` on it does not fit; from `high` on it does, or nothing does.
    low, high = 1, len(starts) - 1
    while low < high:
        middle = (low + high) // 2
        if await fits(beginning_at(middle)):
            high = middle
        else:
            low = middle + 1
    return beginning_at(low)


@contextlib.contextmanager
def _naming_fields() -> Iterator[None]:
    """Errors about a chat's body name the fields of this route's bodies."""
    try:
        yield
    except ApiError as error:
        if error.code == "unknown_parameter" and error.param in ("messages", *_PLACES):
            raise  # the client itself sent a field of a chat
        param = error.param or ""
        if param.startswith("messages"):
            error.param = "input"
        elif param.startswith("tool"):
            error.param, error.message = flat(param), flat(error.message)
        for place, mine in _PLACES.items():
            if param.startswith(place):
                error.param = param.replace(place, mine)
                error.message = error.message.replace(place, mine)
                break
        raise
