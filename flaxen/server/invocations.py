"""POST /invocations, by which SageMaker calls a model: the body's fields say which route is meant.

Deliberately does not know what the routes do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response

from flaxen.server.body import DECODED_BODY, read_json
from flaxen.server.context import Context
from flaxen.server.errors import invalid

Handler = Callable[[Context, Request], Awaitable[Response]]

# The route that is meant by a body with a field. `input` is of a model that pools, and so may be
# `messages`: what for, its task says.
_BY_FIELD = {
    "messages": "/v1/chat/completions",
    "prompt": "/v1/completions",
    "text_1": "/v1/score",
    "queries": "/v1/score",
    "data_1": "/v1/score",
    "query": "/v1/rerank",
}
_BY_TASK = {"embed": "/v1/embeddings", "classify": "/classify"}


async def invoke(
    handlers: Mapping[tuple[str, str], Handler], context: Context, http: Request
) -> Response:
    """Answers as the route that the body is for.

    Args:
      handlers: the server's routes by method and path.
      context: the server's parts.
      http: the request.

    Raises:
      ApiError: 400, the body is for none of the routes; and what the route raises.
    """
    body = await read_json(http, context.config, context.bodies)
    http.scope[DECODED_BODY] = body
    path = next((path for field, path in _BY_FIELD.items() if field in body), None)
    pooling = context.engine.info.pooling
    if ("input" in body and path is None) or ("messages" in body and pooling is not None):
        path = "/v1/embeddings" if pooling is None else _BY_TASK[pooling.task]
    handler = handlers.get(("POST", path or ""))
    if handler is None:
        raise invalid(
            "the body must have messages, prompt, input, text_1 or query, which say what is asked "
            "for"
        )
    return await handler(context, http)
