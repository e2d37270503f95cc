"""Answers a request that is decided: by a plugin, or by the model that its decision selects."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace

from starlette.responses import Response

from flaxen.router.plugins.answers.streams import answer_reply
from flaxen.router.plugins.cache import Flight, Hit
from flaxen.router.plugins.cache_key import Source
from flaxen.router.plugins.preparing import Asked, Prepared, prepare
from flaxen.router.plugins.reply import Json, Reply
from flaxen.router.requests.readers import read_request
from flaxen.router.selection.candidate import Candidate
from flaxen.router.selection.selected import NoModelError
from flaxen.routing.caching import Cached, cached_of
from flaxen.routing.deciding import RecipeDecider, Routed
from flaxen.routing.given import Given
from flaxen.routing.headers import path_headers, routed_headers
from flaxen.routing.models import local_weights
from flaxen.routing.sending import send_answer
from flaxen.routing.service import Outcome, RoutingService
from flaxen.routing.upstream import Call, Upstream, UpstreamError, later
from flaxen.server.errors import ApiError, invalid


async def answer_decided(
    service: RoutingService, local: Upstream, given: Given, decider: RecipeDecider
) -> bool:
    """Answers a request by its decision. Returns True, as work that was not broken off.

    Args:
      local: answers for the models of this process.

    Raises:
      ApiError: no answer began.
    """
    try:
        request = read_request(given.api, given.body, given.http.headers)
    except ValueError as error:
        raise invalid(f"the request can't be classified: {error}") from None
    async with service.turn(), AsyncExitStack() as opened, AsyncExitStack() as ended:
        routed = await decider.decide(request, service.compute)
        outcome = Outcome(
            request_id=given.request_id,
            body=given.body,
            routed=routed,
            added_s=time.perf_counter() - given.begin_s,
        )
        is_debug = given.http.headers.get("x-vsr-debug", "").lower() == "true"
        if routed.error is not None:
            service.tell(replace(outcome, path="error", error=routed.error))
            raise routed.error
        prepared = prepared_of(routed, given.body, given.request_id)
        if prepared.model:
            outcome = replace(outcome, routed=(routed := routed.rerouted(prepared.model)))
        cached, found = None, None
        if (reply := prepared.reply) is not None:
            path = "fast_response" if "x-vsr-fast-response" in reply.headers else "blocked"
        elif (
            cached := await _cached(service, local, given, routed, prepared, decider)
        ) is not None:
            found = await cached.find()
            outcome = replace(outcome, cache="hit" if isinstance(found, Hit) else "miss")
            if isinstance(found, Hit):
                hit = {"x-vsr-cache-hit": "true"}
                reply, path = answer_reply(given.api, found.answer, given.body, hit), "cache"
            else:
                ended.callback(cached.cache.end, found)
        if reply is not None:
            service.tell(replace(outcome, path=path))
            told = path_headers(path) + routed_headers(routed, None, is_debug=is_debug)
            await _send_reply(given, reply, told)
            return True

        def changed(headers: Mapping[str, str]) -> dict[str, str]:
            plain = {} if cached is None else {"accept-encoding": "identity"}
            return prepared.headers.applied(headers) | plain

        def call_of(candidate: Candidate) -> tuple[Upstream, Call]:
            target = given.router.targets[candidate.model]
            return target.upstream or local, given.call(target, prepared.body, changed=changed)

        try:
            sent = await service.dispatcher.send(
                routed, lambda: service.facts(routed, given.request_id), call_of, opened
            )
        except (NoModelError, ApiError) as error:
            told_error = _no_model(error) if isinstance(error, NoModelError) else error
            service.tell(replace(outcome, path="error", error=told_error))
            raise told_error from None
        service.tell(replace(outcome, sent=sent))
        if prepared.shadow is not None:
            service.shadows.send(routed.name, prepared.shadow, given, prepared.body, local)
        answer = sent.answer
        if cached is not None and isinstance(found, Flight):
            answer = cached.kept(answer, sent.selected.model, found)
        told = path_headers("upstream") + routed_headers(
            routed, sent.selected, sent.failed, is_debug=is_debug
        )
        await send_answer(given.http, given.send, answer, told)
    return True


def prepared_of(routed: Routed, body: Json, request_id: str) -> Prepared:
    """A request's body after the plugins of its decision."""
    plugins = () if routed.decision is None else routed.decision.plugins
    found = {(key.kind, key.name): each for key, each in routed.found.items()}
    asked = Asked(request_id=request_id, now=time.time(), found=found)
    return prepare(body, routed.request.api, [each.configuration for each in plugins], asked)


async def _cached(
    service: RoutingService,
    local: Upstream,
    given: Given,
    routed: Routed,
    prepared: Prepared,
    decider: RecipeDecider,
) -> Cached | None:
    """What the cache knows a request by; None where there is nothing to look for."""
    if prepared.cache is None or routed.decision is None:
        return None
    try:
        model = routed.select(service.facts(routed, given.request_id)).model
        weights = ""  # of another server's model nobody knows the version
        if given.router.targets[model].upstream is None:
            weights = await local_weights(local, given.http.scope)
    except (NoModelError, UpstreamError):
        return None  # whoever sends it says why
    source = Source(
        recipe=routed.recipe.name,
        decision=routed.decision.name,
        model=model,
        weights=weights,
        headers=prepared.headers,
    )
    return cached_of(given, routed, prepared, source, decider.identity, service.answers)


async def _send_reply(given: Given, reply: Reply, told: Iterable[tuple[str, str]]) -> None:
    """Sends what no model answered."""
    headers = {**reply.headers, **dict(told)}
    answer = Response(reply.body, reply.status, headers, reply.media_type)
    await answer(given.http.scope, given.http.receive, given.send)


def _no_model(error: NoModelError) -> ApiError:
    """The error of a request that no model of its decision may answer."""
    if not error.may_pass:
        return ApiError(400, f"no model can answer this request: {error}", code="no_model")
    return later(503, f"no model can answer now: {error}", "no_model")
