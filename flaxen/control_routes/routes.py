"""The routes, by the names of vLLM and SGLang (decision 0334).

Deliberately does not know: how an engine does any of this.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen.control_routes.bodies import UpdateBody
from flaxen.engine.control import EngineControl, PauseMode, Tag
from flaxen.server.app import Routes
from flaxen.server.body import read_json
from flaxen.server.context import Context
from flaxen.server.errors import invalid
from flaxen.server.schema import must_be, parse, shorten

logger = logging.getLogger("flaxen.server")

_MODES = {mode.value: mode for mode in PauseMode}
_TAGS = {tag.value: tag for tag in Tag}
_KEEPS_WEIGHTS = {"1": True, "2": False}  # by the level of sleep
_BOOLS = {"true": True, "false": False}


def control_routes(control: EngineControl) -> Routes:
    """The routes of a server whose engine may be controlled."""
    handlers: dict[tuple[str, str], Callable[..., Any]] = {
        ("POST", "/pause"): _pause,
        ("POST", "/resume"): _resume,
        ("GET", "/is_paused"): _is_paused,
        ("POST", "/sleep"): _sleep,
        ("POST", "/wake_up"): _wake_up,
        ("GET", "/is_sleeping"): _is_sleeping,
        ("POST", "/update_weights_from_disk"): _update_weights,
    }
    return {route: functools.partial(each, control) for route, each in handlers.items()}


async def _pause(control: EngineControl, context: Context, http: HttpRequest) -> Response:
    given = _query(http, "mode", "clear_cache")
    mode = _one(given, "mode", _MODES, "abort")
    clears = _one(given, "clear_cache", _BOOLS, "true")
    await _done(http, "paused", functools.partial(control.pause, mode))
    if clears and mode is not PauseMode.KEEP:
        await asyncio.to_thread(context.engine.reset_prefix_cache)
    return JSONResponse({"status": "paused"})


async def _resume(control: EngineControl, context: Context, http: HttpRequest) -> Response:
    _query(http)
    await _done(http, "resumed", control.resume)
    return JSONResponse({"status": "resumed"})


async def _is_paused(control: EngineControl, context: Context, http: HttpRequest) -> Response:
    return JSONResponse({"is_paused": control.is_paused})


async def _sleep(control: EngineControl, context: Context, http: HttpRequest) -> Response:
    given = _query(http, "level", "mode")
    keeps_weights = _one(given, "level", _KEEPS_WEIGHTS, "1")
    mode = _one(given, "mode", _MODES, "abort")
    sleep = functools.partial(control.sleep, mode, keeps_weights=keeps_weights)
    await _done(http, "fell asleep", sleep)
    return Response(status_code=200)


async def _wake_up(control: EngineControl, context: Context, http: HttpRequest) -> Response:
    given = _query(http, "tags").get("tags", list(_TAGS))
    tags = [_one({"tags": [each]}, "tags", _TAGS, "") for each in given]
    await _done(http, f"woke up: {', '.join(tags)}", functools.partial(control.wake_up, tags))
    return Response(status_code=200)


async def _is_sleeping(control: EngineControl, context: Context, http: HttpRequest) -> Response:
    return JSONResponse({"is_sleeping": control.is_sleeping})


async def _update_weights(control: EngineControl, context: Context, http: HttpRequest) -> Response:
    body = parse(UpdateBody, await read_json(http, context.config, context.bodies))
    update = functools.partial(
        control.update_weights,
        body.model_path,
        None if body.weight_version is None else int(body.weight_version),
        aborts=bool(body.abort_all_requests),
        stays_paused=bool(body.keep_pause),
    )
    version = await _done(http, f"serves the weights of {body.model_path}", update)
    message = f"the weights of {body.model_path} are served"
    return JSONResponse({"success": True, "message": message, "weight_version": version})


async def _done(http: HttpRequest, what: str, call: Callable[[], Any]) -> Any:
    """Makes a call that takes its time, and logs it."""
    try:
        result = await asyncio.to_thread(call)
    except (ValueError, OSError) as error:
        raise invalid(f"the weights can't be read, and nothing was changed: {error}") from error
    logger.info("the engine %(what)s", {"what": what}, extra={"request_id": http.state.request_id})
    return result


def _query(http: HttpRequest, *names: str) -> Mapping[str, list[str]]:
    """The parameters of the URL, which must be among those named."""
    found: dict[str, list[str]] = {}
    for name, value in http.query_params.multi_items():
        if name not in names:
            raise invalid(f"unknown parameter {shorten(name)}", name[:80], "unknown_parameter")
        found.setdefault(name, []).append(value)
    return found


def _one(given: Mapping[str, list[str]], name: str, values: Mapping[str, Any], usual: str) -> Any:
    value = given.get(name, [usual])[-1]
    if value not in values:
        raise must_be(name, " or ".join(values), value)
    return values[value]
