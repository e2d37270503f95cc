"""GET /v1/models: the names that are decided, before the models."""

from __future__ import annotations

import json
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flaxen.routing.service import RoutingService
from flaxen.routing.upstream import Call, Upstream
from flaxen.server.info import models_json

_STARTED = int(time.time())


async def list_models(service: RoutingService, local: Upstream, http: Request) -> Response:
    """Answers GET /v1/models: entrypoints, the models of this process as its own route lists them,
    and where the configuration says so those of other servers."""
    router, own = service.router, []
    if router.has_local:
        answer = await local.send(Call(path="/v1/models", method="GET", scope=http.scope))
        own = json.loads(await answer.whole())["data"]
    recipes = router.config.recipes
    found = [
        _model(name, recipes[recipe].description, recipe=recipe)
        for name, recipe in router.config.entrypoints.items()
    ]
    if router.config.settings.router.include_config_models_in_list:
        found += [_model(name, "") for name, target in router.targets.items() if target.upstream]
    return JSONResponse(models_json(found + own))


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
