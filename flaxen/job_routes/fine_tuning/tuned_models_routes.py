"""DELETE /v1/models/{name} as in OpenAI's API, and unloading as in vLLM, for fine-tuned models.

Deliberately does not know: other adapters, how a model is served.
"""

from __future__ import annotations

import asyncio
import logging

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from flaxen.job_routes.fine_tuning.context import FineTuning
from flaxen.job_routes.storage.pages import UnknownIdError
from flaxen.server.body import read_json
from flaxen.server.config import ServerConfig
from flaxen.server.errors import ApiError
from flaxen.server.schema import UnloadAdapterBody, parse

logger = logging.getLogger("flaxen.server")


async def delete(context: FineTuning, config: ServerConfig, http: Request) -> Response:
    """Answers DELETE /v1/models/{name}."""
    asked = http.path_params["name"]
    if asked in context.base_models:
        raise ApiError(
            403,
            f"{asked!r} is the base model, which can't be deleted: only models that fine-tuning "
            "jobs made can",
            param="model",
            code="model_not_deletable",
        )
    name = _own_name(context, asked)
    try:
        await asyncio.to_thread(context.models.delete, name)
    except UnknownIdError:
        raise ApiError(
            404,
            f"no fine-tuning job made a model {asked[:80]!r}, or it is deleted already; an adapter "
            "that was loaded is ended by /v1/unload_lora_adapter",
            param="model",
            code="model_not_found",
        ) from None
    request_id = http.state.request_id
    logger.info("deleted the model %(model)s", {"model": name}, extra={"request_id": request_id})
    return JSONResponse({"id": asked, "object": "model", "deleted": True})


async def unload(context: FineTuning, config: ServerConfig, http: Request) -> Response:
    """Answers POST /v1/unload_lora_adapter where clients may not load or unload other adapters."""
    name = parse(UnloadAdapterBody, await read_json(http, config, context.bodies)).lora_name
    try:
        await asyncio.to_thread(context.models.unload, name)
    except UnknownIdError:
        raise ApiError(
            404,
            f"The lora adapter '{name[:80]}' cannot be found among the models that fine-tuning "
            "jobs made; others are unloaded only with --allow-runtime-lora-updating",
            param="lora_name",
            code="adapter_not_found",
        ) from None
    return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")


def _own_name(context: FineTuning, name: str) -> str:
    """The adapter's own name, if it is given as "base:adapter"."""
    for base in context.base_models:
        if name.startswith(f"{base}:"):
            return name.removeprefix(f"{base}:")
    return name
