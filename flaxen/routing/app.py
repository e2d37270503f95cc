"""RoutingApp: the router before an application. What names a model passes; what names an entrypoint
is decided, and sent to the model that was selected.

Deliberately does not know how requests are decided or models are reached.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from flaxen.router_config.fallback import Fallback
from flaxen.routing.asgi_upstream import AsgiUpstream
from flaxen.routing.compiled import Target
from flaxen.routing.decided import answer_decided
from flaxen.routing.dispatch import no_answer
from flaxen.routing.given import APIS, Given
from flaxen.routing.headers import path_headers
from flaxen.routing.models import model_at
from flaxen.routing.sending import send_answer
from flaxen.routing.service import RoutingService
from flaxen.routing.upstream import Headers, Upstream, UpstreamError
from flaxen.server.body import DECODED_BODY, decode_body, read_body
from flaxen.server.error_answers import handle_error
from flaxen.server.errors import ApiError, invalid
from flaxen.server.sse import unless_disconnected

_SKIPPED: Headers = (("x-vsr-response-warnings", "skip_processing"),)


class RoutingApp:
    """ASGI middleware behind the guard of a server.

    Args:
      app: answers what is not routed, and for the models of this process.
      service: what it works with.
    """

    def __init__(self, app: ASGIApp, service: RoutingService) -> None:
        self._app, self._service, self._local = app, service, AsgiUpstream(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        http = Request(scope, receive)
        log = http.state.log
        try:
            if http.method == "POST" and log.path in APIS:
                await self._route(http, send)
            elif handler := self._service.own_routes.get((http.method, log.path)):
                response = await handler(self._service, self._local, http)
                await response(scope, receive, send)
            elif http.method in ("GET", "HEAD") and (
                found := model_at(self._service.router, log.path)
            ):
                await JSONResponse(found)(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        except (ApiError, ClientDisconnect) as error:
            if log.status:  # the answer has begun
                raise
            response = await handle_error(http, error)
            response.headers.update(dict(path_headers("error")))
            await response(scope, receive, send)

    async def _route(self, http: Request, send: Send) -> None:
        service, begin_s = self._service, time.perf_counter()
        raw = await read_body(http, service.config)
        body = await decode_body(raw, service.bodies)
        router, model = service.router, body.get("model")
        given = Given(http, send, router, body, begin_s, bool(service.config.api_keys))
        target = router.targets.get(model) if isinstance(model, str) else None
        work: Coroutine[Any, Any, bool]
        decider = router.decider_of(model)
        skips = http.headers.get("x-vsr-skip-processing", "").lower() == "true"
        if decider and skips and router.config.settings.router.skip_processing.enabled:
            work = self._skipped(given)
        elif decider is not None:
            work = answer_decided(service, self._local, given, decider)
        elif target is not None and target.upstream is not None:
            work = self._passed(given, target, target.upstream, raw)
        else:
            await self._app({**http.scope, DECODED_BODY: body}, http.receive, send)
            return
        try:
            if not await unless_disconnected(http.receive, work):
                http.state.log.status = http.state.log.status or 499  # nobody reads an answer
        except ApiError as error:
            for listen in service.error_listeners:
                listen(error)
            raise

    async def _skipped(self, given: Given) -> bool:
        """Answers a request that must not be decided, by the default model, and says so."""
        model = given.router.config.providers.defaults.model
        if not model:
            raise invalid(
                "a request that skips decisions needs a providers.defaults.model", "model"
            )
        target = given.router.targets[model]
        given = replace(given, body={**given.body, "model": model})
        return await self._passed(given, target, target.upstream or self._local, b"", _SKIPPED)

    async def _passed(
        self, given: Given, target: Target, upstream: Upstream, raw: bytes, more: Headers = ()
    ) -> bool:
        """Answers a request that names a model, as it is but for a name that its server has not.

        Args:
          raw: the client's body; empty: it has changed.
          more: headers that the client is told.
        """
        model = given.body["model"]
        fallback = given.router.config.settings.router.fallback or Fallback()
        call = given.call(target, given.body, raw if raw and target.name == model else None)
        attempt, left_s = self._service.dispatcher.attempt, fallback.per_attempt_s
        async with self._service.turn(), AsyncExitStack() as opened:
            try:
                answer = await attempt(model, upstream, call, fallback, left_s, opened)
            except UpstreamError as error:
                raise no_answer({model: str(error)}) from None
            await send_answer(given.http, given.send, answer, path_headers("upstream") + more)
        return True
