"""Puts a router before an application: that of a server's models, or one without any."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from flaxen import __version__
from flaxen.routing.app import RoutingApp
from flaxen.routing.given import APIS
from flaxen.routing.metrics import RouterMetrics
from flaxen.routing.models import list_models
from flaxen.routing.previewing import preview
from flaxen.routing.recent import RecentDecisions
from flaxen.routing.replaying import ReplayWriter
from flaxen.routing.service import RoutingService
from flaxen.server.app import empty_app
from flaxen.server.errors import ApiError
from flaxen.server.guard import Guard
from flaxen.server.pages.routes import home_page, page_file, reference_page
from flaxen.server.routing import add_route


def attach(app: FastAPI, service: RoutingService) -> None:
    """Puts a router before an application that has not begun to serve, behind its guard.

    Raises:
      OSError: the replay log can't be opened.
    """
    _add_routes(service)
    app.user_middleware.append(Middleware(RoutingApp, service=service))  # the innermost


def _add_routes(service: RoutingService) -> None:
    """Gives a service the routes that a router answers itself."""
    replay = None if service.log_path is None else ReplayWriter(service, service.log_path)
    metrics = RouterMetrics(service, replay)
    for method in ("GET", "HEAD"):
        service.own_routes[method, "/metrics"] = metrics.page
        service.own_routes |= {(method, path): list_models for path in ("/v1/models", "/models")}
    service.own_routes["POST", "/api/v1/routing/preview"] = preview
    service.own_routes["GET", "/api/v1/routing/decisions"] = RecentDecisions(service).page


def proxy_app(service: RoutingService) -> ASGIApp:
    """The application of a router without models of its own. What is routed passes none of the
    framework's layers."""

    async def health(http: Request) -> Response:
        service.check_health()
        return JSONResponse({"status": "ok"})

    async def home(http: Request) -> Response:
        example = next(iter(service.router.config.entrypoints), "MODEL")
        return home_page(http, [], has_key=bool(service.config.api_keys), example=example)

    app = empty_app()
    for path in APIS:
        add_route(app, "POST", path, _no_model)
    add_route(app, "GET", "/health", health)
    add_route(app, "GET", "/version", _version)
    add_route(app, "GET", "/", home)
    add_route(app, "GET", "/docs", reference_page)
    add_route(app, "GET", "/page/{name}", page_file)
    _add_routes(service)
    return Guard(RoutingApp(app, service), service.config)


async def _version(http: Request) -> Response:
    return JSONResponse({"version": __version__})


async def _no_model(http: Request) -> Response:
    raise ApiError(
        404,
        "no model of this name is routed to: GET /v1/models lists the names that are decided, and "
        "providers.models of the router's file has the others",
        param="model",
        code="model_not_found",
    )
