"""The read-only routes: models, health, load, version, tokenizer, metrics. They read no bodies."""

from __future__ import annotations

from datetime import UTC, datetime
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
    return JSONResponse(models_json(models))


async def get_model(context: Context, http: HttpRequest) -> Response:
    """Answers GET /v1/models/{name}."""
    name, adapter_name = context.find_served(http.path_params["name"])
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


def models_json(models: list[dict[str, Any]]) -> dict[str, Any]:
    """The answer of GET /v1/models, of all models: OpenAI's fields, then Anthropic's."""
    ends = {"first_id": models[0]["id"], "last_id": models[-1]["id"]}
    return {"object": "list", "data": models, "has_more": False, **ends}


def model_json(
    name: str, *, created: int, root: str, parent: str | None, max_model_len: int
) -> dict[str, Any]:
    """One model: OpenAI's fields, vLLM's, and those that Anthropic's clients read.

    Args:
      name: what clients call it.
      created: when it was opened, in seconds since 1970.
      root: its own name.
      parent: the name of the model that it adapts; None for a base model.
      max_model_len: the most tokens of a request, prompt and answer together.
    """
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "flaxen",
        "root": root,
        "parent": parent,
        "max_model_len": max_model_len,
        "type": "model",
        "display_name": root,
        "created_at": datetime.fromtimestamp(created, UTC).isoformat(),
    }


def _model(context: Context, name: str) -> dict[str, Any]:
    info = context.engine.info
    described = model_json(
        name,
        created=info.created,
        root=info.name,
        parent=None,
        max_model_len=info.max_model_len,
    )
    return described | {"weights_version": context.engine.stats().weights_version}


def _adapter(context: Context, adapter: AdapterInfo, name: str) -> dict[str, Any]:
    return model_json(
        name,
        created=adapter.created,
        root=adapter.name,
        parent=context.model_names[0],
        max_model_len=context.engine.info.max_model_len,
    )
