"""The read-only routes: models, health, load, version, tokenizer, metrics. They read no bodies."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen import __version__
from flaxen.protocol import AdapterInfo, EngineStats
from flaxen.server.context import Context


async def list_models(context: Context, http: HttpRequest) -> Response:
    """Answers GET /v1/models."""
    models = [_model(context, name) for name in context.model_names]
    models += [_adapter(context, adapter, adapter.name) for adapter in context.engine.adapters()]
    return JSONResponse({"object": "list", "data": models})


async def get_model(context: Context, http: HttpRequest) -> Response:
    """Answers GET /v1/models/{name}."""
    name, adapter_name = context.find_model(http.path_params["name"])
    for adapter in context.engine.adapters():
        if adapter.name == adapter_name:
            return JSONResponse(_adapter(context, adapter, name))
    return JSONResponse(_model(context, name))


async def health(context: Context, http: HttpRequest) -> Response:
    """Answers GET /health: 503 as soon as the engine accepts no more requests."""
    context.engine.check_health()
    return JSONResponse({"status": "ok"})


async def load(context: Context, http: HttpRequest) -> Response:
    """Answers GET /load, as in vLLM."""
    return load_of(context.engine.stats())


def load_of(stats: EngineStats) -> Response:
    """The answer of GET /load: how many sequences the engine has to compute."""
    return JSONResponse({"server_load": stats.num_running + stats.num_waiting})


async def tokenizer_info(context: Context, http: HttpRequest) -> Response:
    """Answers GET /tokenizer_info: what vLLM tells of a tokenizer_config.json."""
    tokenizer = context.tokenizer
    added = tokenizer.parts.backend.get_added_tokens_decoder()
    described = {
        str(token_id): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        }
        for token_id, token in sorted(added.items())
    }
    return JSONResponse(
        {
            "tokenizer_class": "PreTrainedTokenizerFast",  # transformers' name of what this is
            "model_max_length": context.engine.info.max_model_len,
            **tokenizer.special_tokens,
            "bos_token": tokenizer.bos_token,
            "eos_token": tokenizer.eos_token,
            "added_tokens_decoder": described,
            "chat_template": tokenizer.chat_template,
        }
    )


async def version(context: Context, http: HttpRequest) -> Response:
    """Answers GET /version."""
    return JSONResponse({"version": __version__})


async def metrics(context: Context, http: HttpRequest) -> Response:
    """Answers GET /metrics in Prometheus' or OpenMetrics' format."""
    page, content_type = context.metrics.render(http.headers.get("accept", ""))
    return Response(page, headers={"content-type": content_type})


def _model(context: Context, name: str) -> dict[str, Any]:
    info = context.engine.info
    return {
        "id": name,
        "object": "model",
        "created": info.created,
        "owned_by": "flaxen",
        "root": info.name,
        "parent": None,
        "max_model_len": info.max_model_len,
    }


def _adapter(context: Context, adapter: AdapterInfo, name: str) -> dict[str, Any]:
    base = _model(context, name)
    parent = context.model_names[0]
    return base | {"created": adapter.created, "root": adapter.name, "parent": parent}
