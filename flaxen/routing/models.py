"""GET /v1/models and /v1/models/{name}: the names that are decided, before the models."""

from __future__ import annotations

import json
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from flaxen.routing.compiled import Router
from flaxen.routing.service import RoutingService
from flaxen.routing.upstream import Call, Upstream
from flaxen.server.info import models_json

_STARTED = int(time.time())


async def list_models(service: RoutingService, local: Upstream, http: Request) -> Response:
    """Answers GET /v1/models: entrypoints, the models of this process as its own route lists them,
    and where the configuration says so those of other servers."""
    router = service.router
    own = await _own(local, http.scope) if router.has_local else []
    found = [_entrypoint(router, name) for name in router.config.entrypoints]
    if router.config.settings.router.include_config_models_in_list:
        found += [_model(name, "") for name, target in router.targets.items() if target.upstream]
    return JSONResponse(models_json(found + own))


async def local_weights(local: Upstream, scope: Scope) -> str:
    """The versions of all weights of this process, which change whenever some do: a model's are
    replaced, or an adapter is loaded again.

    Raises:
      UpstreamError: the models' own route does not answer.
    """
    names = ("id", "created", "weights_version")
    return json.dumps([[each.get(name) for name in names] for each in await _own(local, scope)])


async def _own(local: Upstream, scope: Scope) -> list[dict[str, Any]]:
    """The models of this process, as their own route lists them."""
    answer = await local.send(Call(path="/v1/models", method="GET", scope=scope))
    models: list[dict[str, Any]] = json.loads(await answer.whole())["data"]
    return models


def model_at(router: Router, path: str) -> dict[str, Any] | None:
    """What GET /v1/models/{name} answers for a name that is decided, and for a model of another
    server; None for other paths and names."""
    name = path.removeprefix("/v1/models/")
    if name == path:
        return None
    if name in router.config.entrypoints:
        return _entrypoint(router, name)
    target = router.targets.get(name)
    return None if target is None or target.upstream is None else _model(name, "")


def _entrypoint(router: Router, name: str) -> dict[str, Any]:
    recipe = router.config.entrypoints[name]
    return _model(name, router.config.recipes[recipe].description, recipe=recipe)


def _model(name: str, description: str, *, recipe: str = "") -> dict[str, Any]:
    """One name, with the public reference's fields: of a recipe, or of a model that is passed."""
    routing: dict[str, Any] = {"resolution": "virtual" if recipe else "passthrough"}
    if recipe:
        routing |= {"selectable": True, "default_route": recipe == "default", "recipe": recipe}
    owner = "flaxen-router" if recipe else "upstream-endpoint"
    shared = {"object": "model", "type": "model", "created": _STARTED, "owned_by": owner}
    return {
        "id": name,
        "display_name": name,
        "description": description,
        "routing": routing,
    } | shared
