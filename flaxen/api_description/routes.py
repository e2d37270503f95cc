"""Adds GET /openapi.json to an application."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flaxen.server.config import ServerConfig
from flaxen.server.routing import add_route


def add_description(app: FastAPI, config: ServerConfig) -> None:
    """Adds the route. It tells of those that the application has when it is asked, each once."""

    async def describe(http: Request) -> Response:
        # It describes every room of routes, also those that this server does without: 20 MB.
        from flaxen.api_description.document import make_document

        routes = [
            (method, route.path)
            for route in app.routes
            if isinstance(route, Route)
            for method in sorted((route.methods or set()) - {"HEAD"})
        ]
        return JSONResponse(make_document(dict.fromkeys(routes), config))

    add_route(app, "GET", "/openapi.json", describe)
