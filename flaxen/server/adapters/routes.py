"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter, as in vLLM.

Deliberately does not know: the contents of an adapter's files, how an engine uses them.
"""

from __future__ import annotations

import asyncio
import logging

from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response

from flaxen.protocol import UnknownAdapterError
from flaxen.server.adapter_files import AdapterFiles
from flaxen.server.body import read_json
from flaxen.server.context import Context
from flaxen.server.errors import ApiError, invalid
from flaxen.server.schema import LoadAdapterBody, UnloadAdapterBody, parse, shorten

logger = logging.getLogger("flaxen.server")

_MAX_NAME_CHARS = 256


async def load(context: Context, http: HttpRequest) -> Response:
    """Answers POST /v1/load_lora_adapter."""
    files = context.adapter_files
    assert files is not None, "the route is only there with a directory of adapters"
    body = parse(LoadAdapterBody, await read_json(http, context.config, context.bodies))
    name, replace = body.lora_name, bool(body.load_inplace)
    _check_name(context, name)
    if not replace and _is_known(context, name):
        raise invalid(
            f"The lora adapter '{name}' has already been loaded: unload it first, or send "
            "load_inplace=true",
            "lora_name",
        )
    # In a thread, because the files may be large.
    await asyncio.to_thread(_load, context, files, name, body.lora_path, replace)
    logger.info(
        "loaded the adapter %(adapter)s",
        {"adapter": name},
        extra={"path": body.lora_path, "request_id": http.state.request_id},
    )
    return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")


def _load(context: Context, files: AdapterFiles, name: str, path: str, replace: bool) -> None:
    found = files.find(path)
    try:
        context.engine.load_adapter(name, files.read(found), load_inplace=replace)
    except (ValueError, OSError) as error:
        # The error may contain the directory's path, which clients must not see.
        reason = str(error).replace(str(found), path)
        raise invalid(f"the adapter can't be loaded: {reason}", "lora_path") from None


async def unload(context: Context, http: HttpRequest) -> Response:
    """Answers POST /v1/unload_lora_adapter."""
    name = parse(UnloadAdapterBody, await read_json(http, context.config, context.bodies)).lora_name
    unknown = ApiError(
        404,
        f"The lora adapter '{name[:80]}' cannot be found: /v1/models lists those loaded",
        param="lora_name",
        code="adapter_not_found",
    )
    if not _is_known(context, name):
        raise unknown
    try:
        context.engine.unload_adapter(name)
    except UnknownAdapterError:  # another request has just unloaded it
        raise unknown from None
    except ValueError as error:
        raise invalid(str(error), "lora_name") from None
    request_id = http.state.request_id
    logger.info(
        "unloaded the adapter %(adapter)s", {"adapter": name}, extra={"request_id": request_id}
    )
    return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")


def _is_known(context: Context, name: str) -> bool:
    return any(adapter.name == name for adapter in context.engine.adapters())


def _check_name(context: Context, name: str) -> None:
    if not name.strip() or not name.isprintable() or len(name) > _MAX_NAME_CHARS:
        raise invalid(
            f"lora_name must be printable text of at most {_MAX_NAME_CHARS} characters, got "
            f"{shorten(name)}",
            "lora_name",
        )
    if name in context.model_names:
        raise invalid(f"lora_name {name!r} is the base model's: choose another", "lora_name")
