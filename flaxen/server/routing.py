"""Adds a route to an application. Deliberately does not know any."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response


def add_route(
    app: FastAPI, method: str, path: str, handler: Callable[[Request], Awaitable[Response]]
) -> None:
    """Adds a route; one for GET answers HEAD too, for which the server sends no body.

    It is a route of Starlette's: FastAPI's keep their handlers for the rest of the process, in a
    cache, and with them the engine of a model that was unloaded.
    """

    async def endpoint(http: Request) -> Response:
        return await handler(http)

    methods = ["GET", "HEAD"] if method == "GET" else [method]
    app.add_route(path, endpoint, methods=methods)
