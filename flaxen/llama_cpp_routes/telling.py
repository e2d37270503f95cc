"""GET /props, POST /apply-template and /chat/completions/input_tokens, as llama.cpp has them.

They tell what a server has, and what a chat is for the model. Nothing is generated.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen import __version__
from flaxen.server.body import read_json
from flaxen.server.context import Context
from flaxen.server.generation import fields_without_effect
from flaxen.server.generation.bodies import ChatBody, parse_two
from flaxen.server.generation.chat import read_prompt
from flaxen.server.generation.prompts import Prompt


async def props(context: Context, http: HttpRequest) -> Response:
    """Answers GET /props."""
    info, tokenizer = context.engine.info, context.tokenizer
    return JSONResponse(
        {
            "default_generation_settings": {
                "n_ctx": info.max_model_len,
                "params": dict(info.default_sampling),
            },
            "model_alias": context.model_names[0],
            "model_path": info.name,
            "modalities": {"vision": False, "audio": False},
            "chat_template": tokenizer.chat_template or "",
            "bos_token": tokenizer.bos_token or "",
            "eos_token": tokenizer.eos_token or "",
            "build_info": f"flaxen-{__version__}",
            "is_sleeping": False,
        }
    )


async def apply_template(context: Context, http: HttpRequest) -> Response:
    """Answers POST /apply-template: a chat as the text that the model reads."""
    return JSONResponse({"prompt": (await _prompt(context, http)).text})


async def input_tokens(context: Context, http: HttpRequest) -> Response:
    """Answers POST /chat/completions/input_tokens: how many tokens a chat has."""
    return JSONResponse({"input_tokens": len((await _prompt(context, http)).token_ids)})


async def _prompt(context: Context, http: HttpRequest) -> Prompt:
    """The prompt of a body of /v1/chat/completions."""
    given: dict[str, Any] = await read_json(http, context.config, context.bodies)
    kept = fields_without_effect.drop_from_body(given, fields_without_effect.CHAT)
    body, common = parse_two(ChatBody, kept)
    context.check_model(common.model)
    prompt, _ = await read_prompt(context, body)
    return prompt
