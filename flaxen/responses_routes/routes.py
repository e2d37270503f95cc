"""The tables of these routes: for `server.app.create_app`, and for a server of several models."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response

from flaxen.responses_routes import chats, compacting, creating, kept
from flaxen.responses_routes.responses import Responses
from flaxen.server.app import Routes
from flaxen.server.context import Context

ModelFreeHandler = Callable[[Request], Awaitable[Response]]
_ONE = "/v1/responses/{response_id}"
_CHATS = "/v1/chat/completions"
_CHAT = f"{_CHATS}/{{completion_id}}"


def model_routes(responses: Responses) -> Routes:
    """The routes that need a model."""
    return {
        ("POST", _CHATS): functools.partial(chats.create, responses),
        ("POST", "/v1/responses"): functools.partial(creating.create, responses),
        ("POST", "/v1/responses/compact"): functools.partial(compacting.compact, responses),
        ("POST", "/v1/responses/input_tokens"): functools.partial(
            creating.count_input_tokens, responses
        ),
    }


def model_free_routes(responses: Responses) -> Mapping[tuple[str, str], ModelFreeHandler]:
    """The routes that need none: those of responses and chats that are kept."""
    return {
        ("GET", _ONE): functools.partial(kept.retrieve, responses),
        ("DELETE", _ONE): functools.partial(kept.delete, responses),
        ("POST", f"{_ONE}/cancel"): functools.partial(kept.cancel, responses),
        ("GET", f"{_ONE}/input_items"): functools.partial(kept.list_input_items, responses),
        ("GET", _CHATS): functools.partial(chats.list_chats, responses),
        ("GET", _CHAT): functools.partial(chats.retrieve, responses),
        ("POST", _CHAT): functools.partial(chats.update, responses),
        ("DELETE", _CHAT): functools.partial(chats.delete, responses),
        ("GET", f"{_CHAT}/messages"): functools.partial(chats.list_messages, responses),
    }


def all_routes(responses: Responses) -> Routes:
    """All of them, for a server of one model."""
    free = {
        route: functools.partial(_without_model, handler)
        for route, handler in model_free_routes(responses).items()
    }
    return {**model_routes(responses), **free}


async def _without_model(handler: ModelFreeHandler, context: Context, http: Request) -> Response:
    return await handler(http)
