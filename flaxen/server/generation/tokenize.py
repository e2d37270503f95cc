"""POST /tokenize and /detokenize, as vLLM and llama.cpp have them.

Deliberately does not know sampling.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen.server.body import read_json
from flaxen.server.context import Context
from flaxen.server.errors import invalid
from flaxen.server.generation import fields_without_effect
from flaxen.server.generation.bodies import ContentBody, DetokenizeBody, TokenizeBody
from flaxen.server.generation.chat_prompts import chat_prompt
from flaxen.server.generation.continuing import check_open
from flaxen.server.generation.prompts import encode, run_by_length
from flaxen.server.generation.sampling_fields import check_token_ids
from flaxen.server.generation.tools import read_tools
from flaxen.server.schema import parse


async def tokenize(context: Context, http: HttpRequest) -> Response:
    """Answers POST /tokenize: the ids of a prompt or of rendered messages."""
    given = await read_json(http, context.config, context.bodies)
    if given.get("content") is not None:
        return await _tokens_of_content(context, given)
    body = parse(TokenizeBody, fields_without_effect.drop(given, fields_without_effect.TOKENIZE))
    context.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise invalid("give either prompt or messages, and not both", "prompt")
    if body.messages is not None:
        prompt = await chat_prompt(
            body.messages,
            add_generation_prompt=body.add_generation_prompt is not False,
            template_kwargs=body.chat_template_kwargs or {},
            add_special_tokens=bool(body.add_special_tokens),
            context=context,
            continues=check_open(body.continue_final_message, body.add_generation_prompt),
            tools=read_tools(body.tools, None, parallel_tool_calls=None),
        )
        tokens = list(prompt.token_ids)
    else:
        for name in (
            "add_generation_prompt", "continue_final_message", "chat_template_kwargs", "tools",
        ):  # fmt: skip
            if getattr(body, name) is not None:
                raise invalid(f"{name} needs messages: a prompt has no template", name)
        assert body.prompt is not None
        [tokens] = await encode([body.prompt], body.add_special_tokens is not False, context)

    def answer() -> Response:
        strings = None
        if body.return_token_strs:
            strings = [context.tokenizer.spelling(token_id) for token_id in tokens]
        return JSONResponse(
            {
                "count": len(tokens),
                "max_model_len": context.engine.info.max_model_len,
                "tokens": tokens,
                "token_strs": strings,
            }
        )

    return await run_by_length(answer, len(tokens), context)


async def _tokens_of_content(context: Context, given: dict[str, Any]) -> Response:
    """Answers a body as llama.cpp has it: no special tokens are added unless it asks for them."""
    body = parse(
        ContentBody, fields_without_effect.drop(given, fields_without_effect.TOKENIZE_CONTENT)
    )
    context.check_model(body.model)
    [tokens] = await encode([body.content], bool(body.add_special), context)

    def answer() -> Response:
        if not body.with_pieces:
            return JSONResponse({"tokens": tokens})
        pieces = [{"id": i, "piece": _piece(context.tokenizer.token_bytes(i))} for i in tokens]
        return JSONResponse({"tokens": pieces})

    return await run_by_length(answer, len(tokens), context)


def _piece(token: bytes) -> str | list[int]:
    """A token's text; its bytes, if they are no whole characters."""
    try:
        return token.decode("utf-8")
    except UnicodeDecodeError:
        return list(token)


async def detokenize(context: Context, http: HttpRequest) -> Response:
    """Answers POST /detokenize: the text of token ids, special ones included."""
    body = parse(DetokenizeBody, await read_json(http, context.config, context.bodies))
    context.check_model(body.model)
    check_token_ids(body.tokens, context.engine.info.vocab_size, "tokens")

    def answer() -> Response:
        text = context.tokenizer.decode(body.tokens, skip_special_tokens=False)
        # vLLM's name of the text, and llama.cpp's.
        return JSONResponse({"prompt": text, "content": text})

    return await run_by_length(answer, len(body.tokens), context)
