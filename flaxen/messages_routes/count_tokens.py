"""POST /v1/messages/count_tokens. Deliberately does not know answers."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen.messages_routes.bodies import WITHOUT_EFFECT, PromptBody, prompt_fields
from flaxen.server.body import read_json
from flaxen.server.context import Context
from flaxen.server.generation.bodies import ChatBody
from flaxen.server.generation.chat import read_prompt
from flaxen.server.generation.fields_without_effect import drop
from flaxen.server.schema import parse


async def count_tokens(context: Context, http: HttpRequest) -> Response:
    """Answers POST /v1/messages/count_tokens: the prompt's tokens, also if they are too many."""
    given = await read_json(http, context.config, context.bodies)
    body = parse(PromptBody, drop(given, WITHOUT_EFFECT))
    context.check_model(body.model)
    fields = prompt_fields(body, None, context)
    fields.pop("response_format")  # it says nothing to the model
    prompt, _ = await read_prompt(context, parse(ChatBody, fields))
    return JSONResponse({"input_tokens": len(prompt.token_ids)})
