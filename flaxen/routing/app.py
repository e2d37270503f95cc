"""RoutingApp: the router before an application. What names a model passes; what names an entrypoint
is decided, and sent to the model that was selected.

Deliberately does not know how requests are decided or models are reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from flaxen.router.plugins.preparing import Asked, prepare
from flaxen.router.requests.readers import read_request
from flaxen.router.selection.candidate import Candidate
from flaxen.router.selection.selected import NoModelError
from flaxen.router_config.fallback import Fallback
from flaxen.routing.asgi_upstream import AsgiUpstream
from flaxen.routing.compiled import Router, Target
from flaxen.routing.deciding import RecipeDecider
from flaxen.routing.dispatch import no_answer
from flaxen.routing.headers import path_headers, routed_headers
from flaxen.routing.sending import send_answer
from flaxen.routing.service import Outcome, RoutingService
from flaxen.routing.upstream import OF_CONNECTION, Call, Upstream, UpstreamError, later
from flaxen.server.body import DECODED_BODY, decode_body, read_body
from flaxen.server.error_answers import handle_error
from flaxen.server.errors import ApiError, invalid
from flaxen.server.sse import to_json, unless_disconnected

Json = dict[str, Any]
APIS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "messages",
    "/v1/embeddings": "embeddings",
}
APIS |= {path.removeprefix("/v1"): api for path, api in APIS.items() if api != "messages"}
_KEYS = {"authorization", "x-api-key"}


@dataclass(frozen=True)
class _Given:
    """A request of a client, with the configuration that it began with."""

    http: Request
    send: Send
    router: Router
    body: Json
    begin_s: float

    @property
    def api(self) -> str:
        return APIS[self.http.state.log.path]


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
        given = _Given(http, send, router, body, begin_s)
        target = router.targets.get(model) if isinstance(model, str) else None
        work: Coroutine[Any, Any, bool]
        if (decider := router.decider_of(model)) is not None:
            work = self._decided(given, decider)
        elif target is not None and target.upstream is not None:
            work = self._passed(given, target, target.upstream, raw)
        else:
            await self._app({**http.scope, DECODED_BODY: body}, http.receive, send)
            return
        if not await unless_disconnected(http.receive, work):
            http.state.log.status = http.state.log.status or 499  # nobody reads an answer

    async def _decided(self, given: _Given, decider: RecipeDecider) -> bool:
        """Answers a request by the model that its decision selects."""
        service, http, router = self._service, given.http, given.router
        try:
            request = read_request(given.api, given.body, http.headers)
        except ValueError as error:
            raise invalid(f"the request can't be classified: {error}") from None
        async with service.turn(), AsyncExitStack() as opened:
            routed = await decider.decide(request, service.compute)
            request_id = http.state.request_id
            plugins = [] if routed.decision is None else routed.decision.plugins
            found = {(key.kind, key.name): each for key, each in routed.found.items()}
            prepared = prepare(
                given.body,
                given.api,
                [plugin.configuration for plugin in plugins],
                Asked(request_id=request_id, now=time.time(), found=found),
            )
            if prepared.model:
                routed = routed.rerouted(prepared.model)
            outcome = Outcome(
                request_id=request_id,
                body=given.body,
                routed=routed,
                added_s=time.perf_counter() - given.begin_s,
            )
            is_debug = http.headers.get("x-vsr-debug", "").lower() == "true"
            if (reply := prepared.reply) is not None:
                service.tell(outcome)
                told = routed_headers(routed, None, is_debug=is_debug)
                is_fast = "x-vsr-fast-response" in reply.headers
                path = path_headers("fast_response" if is_fast else "blocked")
                headers = {**reply.headers, **dict(path + told)}
                answer = Response(reply.body, reply.status, headers, reply.media_type)
                await answer(http.scope, http.receive, given.send)
                return True

            def call_of(candidate: Candidate) -> tuple[Upstream, Call]:
                target = router.targets[candidate.model]
                call = self._call(given, target, prepared.body, changed=prepared.headers.applied)
                return target.upstream or self._local, call

            try:
                sent = await service.dispatcher.send(
                    routed, lambda: service.facts(routed, request_id), call_of, opened
                )
            except (NoModelError, ApiError) as error:
                told_error = _no_model(error) if isinstance(error, NoModelError) else error
                service.tell(replace(outcome, error=told_error))
                raise told_error from None
            service.tell(replace(outcome, sent=sent))
            told = routed_headers(routed, sent, is_debug=is_debug)
            await send_answer(http, given.send, sent.answer, path_headers("upstream") + told)
        return True

    async def _passed(self, given: _Given, target: Target, upstream: Upstream, raw: bytes) -> bool:
        """Answers a request that names a model, as it is but for a name that its server has not."""
        model = given.body["model"]
        fallback = given.router.config.settings.router.fallback or Fallback()
        call = self._call(given, target, given.body, raw if target.name == model else None)
        attempt, left_s = self._service.dispatcher.attempt, fallback.per_attempt_s
        async with self._service.turn(), AsyncExitStack() as opened:
            try:
                answer = await attempt(model, upstream, call, fallback, left_s, opened)
            except UpstreamError as error:
                raise no_answer({model: str(error)}) from None
            await send_answer(given.http, given.send, answer, path_headers("upstream"))
        return True

    def _call(
        self,
        given: _Given,
        target: Target,
        body: Mapping[str, Any],
        raw: bytes | None = None,
        changed: Callable[[Mapping[str, str]], dict[str, str]] = dict,
    ) -> Call:
        """The request for a model: the client's, with the name by which its server knows it."""
        if raw is None:
            try:
                raw = to_json({**body, "model": target.name}).encode()
            except ValueError:
                raise invalid("a number of the body is too large for JSON") from None
        # With keys of its own the router has used up the client's.
        dropped = OF_CONNECTION | {"host"} | (_KEYS if self._service.config.api_keys else set())
        given_headers = {k: v for k, v in given.http.headers.items() if k not in dropped}
        headers = changed(given_headers) | {"content-length": str(len(raw))}
        scope, path = given.http.scope, given.http.state.log.path
        return Call(path=path, headers=tuple(headers.items()), body=raw, scope=scope)


def _no_model(error: NoModelError) -> ApiError:
    """The error of a request that no model of its decision may answer."""
    if not error.may_pass:
        return ApiError(400, f"no model can answer this request: {error}", code="no_model")
    return later(503, f"no model can answer now: {error}", "no_model")
