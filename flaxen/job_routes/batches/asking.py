"""Asks an application's own routes, inside the process, at a low priority.

So a request of a batch is checked, counted and logged as any other. Deliberately does not know
files or batches.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp

from flaxen.job_routes.batches.batch_lines import Answered, BatchRequest
from flaxen.server.body import DECODED_BODY
from flaxen.server.config import ServerConfig

# Requests with lower numbers come first, and clients' own have 0 unless they say otherwise.
_PRIORITY = 1000
_WITH_PRIORITY = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
# The codes of errors that may be over later.
_RETRIED = ("aborted", "busy", "queue_full", "unavailable")
_RETRY_S = 1.0


class Asking:
    """The routes of one application.

    Args:
      app: the application, with its guard.
      config: has the keys, of which one is used.
      check: raises if nothing will be answered any more.
      retry_s: the seconds until a request is tried again that found no place.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: ServerConfig,
        *,
        check: Callable[[], None] = lambda: None,
        retry_s: float = _RETRY_S,
    ) -> None:
        self._app, self._check, self._retry_s = app, check, retry_s
        headers = [(b"content-type", b"application/json")]
        if config.api_keys:
            headers.append((b"x-api-key", config.api_keys[0].encode()))
        self._headers = headers

    async def ask(self, request: BatchRequest) -> Answered:
        """Answers a request; where too many wait, it waits and tries again.

        Raises:
          What `check` raises.
        """
        body = request.body
        if request.url in _WITH_PRIORITY and body.get("priority") is None:
            body = {**body, "priority": _PRIORITY}
        while True:
            answered = await self._ask(request.url, body)
            if answered.status == 200 or answered.body["error"]["code"] not in _RETRIED:
                return answered
            self._check()
            await asyncio.sleep(self._retry_s)

    async def _ask(self, path: str, body: dict[str, Any]) -> Answered:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": self._headers,
            "client": None,
            "server": None,
            DECODED_BODY: body,
        }
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> dict[str, Any]:
            await asyncio.Event().wait()  # the body is decoded, and nobody disconnects
            raise AssertionError("nothing sets the event")

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        begin, *rest = sent
        headers = Headers(raw=list(begin["headers"]))
        text = b"".join(message.get("body", b"") for message in rest)
        return Answered(
            status=begin["status"], request_id=headers["x-request-id"], body=json.loads(text)
        )
