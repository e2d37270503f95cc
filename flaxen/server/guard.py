"""Middleware around every HTTP request: its id, API key, unexpected errors, and line of the log.

Deliberately does not know routes, except those that need no key.
"""

from __future__ import annotations

import hmac
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flaxen.server.config import ServerConfig
from flaxen.server.error_answers import error_response
from flaxen.server.errors import ApiError, as_api_error, invalid
from flaxen.server.request_log import RequestLog

# What watches a server has no key. Nor has a browser, so the pages for people need none: they say
# nothing that it protects.
OPEN_PATHS = ("/health", "/v1/health", "/ping", "/", "/docs", "/openapi.json")
OPEN_FOLDER = "/page/"  # the files that those pages load
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def check_request_id(asked: str, where: str) -> None:
    """Raises a 400 for an id that could forge a log line, or that is not a valid header."""
    if _REQUEST_ID.fullmatch(asked) is None:
        raise invalid(
            f"{where} must be 1 to 128 letters, digits, '.', '_', ':' or '-': correct it or leave "
            "it out",
            where,
        )


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app = app
        self._keys = [key.encode() for key in config.api_keys]
        self._root_path = config.root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        asked_id = headers.get("x-request-id")
        valid = asked_id is not None and _REQUEST_ID.fullmatch(asked_id) is not None
        state = scope.setdefault("state", {})
        # A route may replace this by the id in the request's body.
        state["request_id"] = asked_id if valid else uuid.uuid4().hex
        scope["root_path"] = self._root_path
        path = _route_path(scope)
        log = state["log"] = RequestLog(method=scope["method"], path=path)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                log.status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = state["request_id"]
            await send(message)

        try:
            if asked_id is not None:
                check_request_id(asked_id, "x-request-id")
            if path not in OPEN_PATHS and not path.startswith(OPEN_FOLDER):
                self._check_key(headers)
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            # Routes handle their own errors: one that arrives here is the guard's own, or a bug.
            log.error = as_api_error(error)
            if not log.status:
                await error_response(log.error, path)(scope, receive, send_with_id)
        finally:
            log.write(state["request_id"])

    def _check_key(self, headers: Headers) -> None:
        if not self._keys:
            return
        authorization, plain = headers.get("authorization"), headers.get("x-api-key")
        scheme, _, bearer = (authorization or "").partition(" ")
        given = (bearer if scheme.lower() == "bearer" else "", plain or "")
        # Header bytes are Latin-1. Every key is compared, each in constant time, so that the
        # duration reveals nothing about the keys.
        found = [
            hmac.compare_digest(each.strip().encode("latin-1"), key)
            for each in given
            for key in self._keys
        ]
        if not any(found):
            raise ApiError(
                401,
                ("the API key is wrong" if authorization or plain else "the API key is missing")
                + ": send a valid one as 'Authorization: Bearer KEY' or 'x-api-key: KEY'",
                code="invalid_api_key",
                type="authentication_error",
                headers={"www-authenticate": "Bearer"},
            )


def _route_path(scope: Scope) -> str:
    """The path below the server's root path, which a proxy may have cut off or not."""
    path: str = scope["path"]
    root: str = scope["root_path"]
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path
