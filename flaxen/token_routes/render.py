"""POST /v1/completions/render and /v1/chat/completions/render, as vLLM has them: what a request
asks of the engine, as bodies of /inference/v1/generate. Nothing is generated.

A router that knows the token ids sends a request where its prefix is in the cache.
"""

from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen.protocol import Request, SamplingParams
from flaxen.server.context import Context
from flaxen.server.generation import chat as chat_route
from flaxen.server.generation import completions as completions_route
from flaxen.server.generation.answer import Asked, read_request
from flaxen.server.generation.prompts import Prompt, run_by_length
from flaxen.text.tokenizer import Tokenizer


async def completions(context: Context, http: HttpRequest) -> Response:
    """Answers POST /v1/completions/render: a list, with one body for each prompt."""
    read = await read_request(context, http, completions_route.BODY)
    num_tokens = sum(len(request.prompt_token_ids) for request in read.requests)

    def answer() -> Response:
        pairs = zip(read.requests, read.view.prompts, strict=True)
        return JSONResponse([_body(context, read.asked, *pair) for pair in pairs])

    return await run_by_length(answer, num_tokens, context)


async def chat(context: Context, http: HttpRequest) -> Response:
    """Answers POST /v1/chat/completions/render: one body."""
    read = await read_request(context, http, chat_route.BODY)
    [request] = read.requests

    def answer() -> Response:
        return JSONResponse(_body(context, read.asked, request, read.view.prompt))

    return await run_by_length(answer, len(request.prompt_token_ids), context)


def _body(context: Context, asked: Asked, request: Request, prompt: Prompt) -> dict[str, Any]:
    options = asked.common.stream_options
    offsets = None
    if asked.common.return_token_offsets and prompt.text is not None:
        offsets = _offsets(context.tokenizer, prompt)
    retention = request.retention
    kept = {
        "session_id": request.session_id,
        "retention": {"ttl_s": retention} if isinstance(retention, int | float) else retention,
    }
    return {
        **{name: each for name, each in kept.items() if each is not None},
        "request_id": asked.answer_id,
        "model": asked.model,
        "token_ids": list(request.prompt_token_ids),
        "token_offsets": offsets,
        "features": None,  # images and sounds, which there are none of
        "sampling_params": sampling_json(request.sampling),
        "stream": bool(asked.common.stream),
        "stream_options": None if options is None else options.model_dump(exclude_none=True),
        "cache_salt": asked.common.cache_salt,
        "priority": request.priority,
        "kv_transfer_params": None,
    }


def _offsets(tokenizer: Tokenizer, prompt: Prompt) -> list[tuple[int, int]]:
    """Where each token begins and ends in the prompt's text; added ones are empty."""
    assert prompt.text is not None
    offsets = tokenizer.offsets(prompt.text)
    if len(offsets) == len(prompt.token_ids):
        return offsets
    return tokenizer.offsets(prompt.text, add_special_tokens=False)  # the template wrote them


def sampling_json(sampling: SamplingParams) -> dict[str, Any]:
    """The sampling parameters as JSON; those that are None are left out."""
    values = {each.name: getattr(sampling, each.name) for each in fields(sampling)}
    return {name: _json(value) for name, value in values.items() if value is not None}


def _json(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {name: each for name, each in asdict(value).items() if each is not None}
    if isinstance(value, dict):  # token ids are strings in JSON
        return {str(key): each for key, each in value.items()}
    return value
