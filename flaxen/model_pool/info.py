"""The read-only routes of a server with several models. Deliberately reads no bodies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flaxen import __version__
from flaxen.model_pool.names import find_slot
from flaxen.model_pool.pool import ModelPool
from flaxen.model_pool.served_model import ModelState
from flaxen.model_pool.slot import Slot
from flaxen.server.config import ServerConfig
from flaxen.server.info import load_of, model_json, models_json
from flaxen.server.metrics import ServerMetrics
from flaxen.server.pages.routes import ShownModel, home_page


async def list_models(pool: ModelPool, http: Request) -> Response:
    """Answers GET /v1/models: all models and their adapters, in memory or not."""
    data = [model for slot in pool.slots for model in _models(slot)]
    return JSONResponse(models_json(data))


async def get_model(pool: ModelPool, http: Request) -> Response:
    """Answers GET /v1/models/{name}."""
    name = http.path_params["name"]
    slot = find_slot(pool.slots, name)
    known = {model["id"]: model for model in _models(slot)}
    # "base:adapter" is a name of the adapter too.
    adapter = name.partition(":")[2]
    return JSONResponse(known.get(name) or known[adapter] | {"id": name})


async def health(pool: ModelPool, http: Request) -> Response:
    """Answers GET /health: 503 as soon as requests are refused. It needs no key: no names."""
    pool.check_health()
    counts = Counter(slot.state for slot in pool.slots)
    models = {state.value: counts[state] for state in ModelState}
    return JSONResponse({"status": "ok", "models": models})


async def load(pool: ModelPool, http: Request) -> Response:
    """Answers GET /load."""
    return load_of(pool.stats())


async def version(http: Request) -> Response:
    """Answers GET /version."""
    return JSONResponse({"version": __version__})


async def metrics(server: ServerMetrics, http: Request) -> Response:
    """Answers GET /metrics in Prometheus' or OpenMetrics' format."""
    page, content_type = server.render(http.headers.get("accept", ""))
    return Response(page, headers={"content-type": content_type})


async def home(pool: ModelPool, config: ServerConfig, http: Request) -> Response:
    """Answers GET /: what is served, and how to call it from here."""
    shown = [
        ShownModel(
            name=slot.model.name,
            max_model_len=slot.model.max_model_len,
            chats=slot.loaded is not None and slot.loaded.can_chat,  # else not known yet
        )
        for slot in pool.slots
    ]
    return home_page(http, shown, has_key=bool(config.api_keys))


def _models(slot: Slot) -> Iterator[dict[str, Any]]:
    model = slot.model
    status: dict[str, Any] = {"value": slot.state.value}
    if slot.error is not None:
        status["error"] = slot.error
    shared = {"created": model.created, "max_model_len": model.max_model_len}
    engine = None if slot.loaded is None else slot.loaded.engine
    version = 0 if engine is None else engine.stats().weights_version
    for name in model.names:
        described = model_json(name, root=model.root, parent=None, **shared)
        yield described | {"status": status, "weights_version": version}
    created = {} if engine is None else {each.name: each.created for each in engine.adapters()}
    for name in slot.adapters:
        mine = shared | {"created": created.get(name, model.created)}
        yield model_json(name, root=name, parent=model.name, **mine) | {"status": status}
