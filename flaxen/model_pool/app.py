"""The application of a server with several models: its own routes, and those of the models.

Contains no logic of a route.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from flaxen.model_pool import info
from flaxen.model_pool.forwarding import Forwarding, forward, forward_to_first
from flaxen.model_pool.metrics import PoolCollector
from flaxen.model_pool.pool import ModelPool
from flaxen.model_pool.slot import ModelLoadError
from flaxen.server.app import ADAPTER_ROUTES, ALIASES, INVOCATIONS, ROUTES, add_guard, empty_app
from flaxen.server.config import ServerConfig
from flaxen.server.error_answers import handle_error
from flaxen.server.errors import ApiError
from flaxen.server.metrics import ServerMetrics
from flaxen.server.pages.routes import page_file, reference_page
from flaxen.server.routing import add_route

Handler = Callable[[Request], Awaitable[Response]]
NO_OWN_ROUTES: Mapping[tuple[str, str], Handler] = MappingProxyType({})


def create_pool_app(
    pool: ModelPool,
    config: ServerConfig,
    metrics: ServerMetrics,
    *,
    has_adapter_routes: bool,
    more_routes: Iterable[tuple[str, str]] = (),
    own_routes: Mapping[tuple[str, str], Handler] = NO_OWN_ROUTES,
) -> FastAPI:
    """Returns the server of several models as an ASGI application. The caller closes the pool.

    Args:
      pool: the models.
      config: limits and keys; the names are the models' own.
      metrics: those of all models.
      has_adapter_routes: whether clients may load adapters of the first model.
      more_routes: methods and paths that the models' applications have beside the usual ones.
      own_routes: routes of a room above the server that need no model.
    """
    metrics.registry.register(PoolCollector(pool, metrics.prefix))
    app = empty_app()
    app.add_exception_handler(ModelLoadError, _load_failed)
    own: dict[tuple[str, str], Handler] = {
        ("GET", "/v1/models"): functools.partial(info.list_models, pool),
        ("GET", "/v1/models/{name:path}"): functools.partial(info.get_model, pool),
        ("GET", "/health"): functools.partial(info.health, pool),
        ("GET", "/load"): functools.partial(info.load, pool),
        ("GET", "/version"): info.version,
        ("GET", "/metrics"): functools.partial(info.metrics, metrics),
        ("GET", "/"): functools.partial(info.home, pool, config),
        ("GET", "/docs"): reference_page,
        ("GET", "/page/{name}"): page_file,
    }
    forwarding = Forwarding(pool=pool, config=config)
    # A request without a body names no model.
    first = functools.partial(forward_to_first, forwarding)
    named = functools.partial(forward, forwarding)
    routes: dict[tuple[str, str], Handler] = {
        route: named if route[0] == "POST" else first for route in (*ROUTES, *more_routes)
    }
    routes |= {**own, **own_routes, INVOCATIONS: named}
    routes |= dict.fromkeys(ADAPTER_ROUTES if has_adapter_routes else (), first)
    routes |= {alias: routes[route] for alias, route in ALIASES.items() if route in routes}
    for (method, path), handler in routes.items():
        add_route(app, method, path, handler)
    add_guard(app, config)
    return app


async def _load_failed(http: Request, error: Exception) -> Response:
    """Answers with 503 and the reason: the client may try again, or ask another model."""
    api_error = ApiError(
        503,
        str(error),
        param="model",
        code="model_unavailable",
        type="server_error",
        headers={"retry-after": "10"},
    )
    return await handle_error(http, api_error)
