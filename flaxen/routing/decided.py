"""Answers a request that is decided: by a plugin, or by the model that its decision selects."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

from starlette.responses import Response

from flaxen.router.plugins.answers.streams import answer_reply
from flaxen.router.plugins.cache import Hit
from flaxen.router.plugins.cache_key import Source
from flaxen.router.plugins.preparing import Asked, Prepared, prepare
from flaxen.router.plugins.reply import Json, Reply
from flaxen.router.reasoning import with_reasoning
from flaxen.router.requests.readers import read_request
from flaxen.router.selection.candidate import Candidate, Facts
from flaxen.router.selection.logprobs import with_logprobs
from flaxen.router.selection.selected import NoModelError
from flaxen.routing.caching import Cached, cached_of
from flaxen.routing.cascading import first_sure, is_cascade
from flaxen.routing.deciding import RecipeDecider, Routed
from flaxen.routing.dispatch import Sent
from flaxen.routing.given import Given
from flaxen.routing.headers import path_headers, routed_headers
from flaxen.routing.models import local_weights
from flaxen.routing.sending import send_answer
from flaxen.routing.service import Outcome, RoutingService
from flaxen.routing.sessions import names_of
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
        if routed.error is not None:
            service.tell(replace(outcome, path="error", error=routed.error))
            raise routed.error
        counts = given.path.endswith("/count_tokens")
        prepared = prepared_of(routed, given.body, given.request_id, counts=counts)
        names = names_of(given.router.config, routed, given.body, given.http.headers)
        if prepared.model:
            routed = routed.rerouted(prepared.model)
        else:
            routed = replace(routed, session=service.sessions.of(names, routed, given.router))
        work = _Work(service, local, given, routed, prepared, replace(outcome, routed=routed))
        if (reply := prepared.reply) is not None:
            is_fast = "x-vsr-fast-response" in reply.headers
            await work.reply(reply, "fast_response" if is_fast else "blocked")
            return True
        cached, flight = await work.cached(decider), None
        if cached is not None:
            found = await cached.find()
            if isinstance(found, Hit):
                hit = {"x-vsr-cache-hit": "true"}
                if work.is_debug:
                    hit["x-vsr-cache-similarity"] = f"{found.similarity:.4f}"
                await work.reply(
                    answer_reply(given.api, found.answer, given.body, hit), "cache", cache="hit"
                )
                return True
            flight = found
            ended.callback(cached.cache.end, flight)
        sent = await work.sent(opened, "" if cached is None else "miss")
        answer, candidate = sent.answer, sent.selected.candidate
        if answer.status == 200:
            if not counts:  # which is no turn
                service.sessions.note(names, routed, candidate)
            if given.api == "responses":
                answer = service.sessions.noting_id(answer, routed, candidate)
            if cached is not None and flight is not None:
                answer = cached.kept(answer, candidate.name, flight)
        told = routed_headers(
            routed, sent.selected, sent.failed, sent.asked, is_debug=work.is_debug
        )
        await send_answer(given.http, given.send, answer, path_headers("upstream") + told)
    return True


@dataclass(frozen=True)
class _Work:
    """A request that is decided and prepared, and what is told of it."""

    service: RoutingService
    local: Upstream
    given: Given
    routed: Routed
    prepared: Prepared
    outcome: Outcome

    @property
    def is_debug(self) -> bool:
        return self.given.http.headers.get("x-vsr-debug", "").lower() == "true"

    async def reply(self, reply: Reply, path: str, cache: str = "") -> None:
        """Sends what no model answers now."""
        self.service.tell(replace(self.outcome, path=path, cache=cache))
        told = path_headers(path) + routed_headers(self.routed, None, is_debug=self.is_debug)
        headers = {**reply.headers, **dict(told)}
        answer = Response(reply.body, reply.status, headers, reply.media_type)
        await answer(self.given.http.scope, self.given.http.receive, self.given.send)

    async def cached(self, decider: RecipeDecider) -> Cached | None:
        """What the cache knows the request by; None where there is nothing to look for."""
        given, routed, prepared = self.given, self.routed, self.prepared
        if prepared.cache is None or routed.decision is None:
            return None
        try:
            chosen = routed.select(self.service.facts(routed, given.request_id)).candidate
            weights = ""  # of another server's model nobody knows the version
            if given.router.targets[chosen.model].upstream is None:
                weights = await local_weights(self.local, given.http.scope)
        except (NoModelError, UpstreamError):
            return None  # whoever sends it says why
        body = with_reasoning(prepared.body, given.api, chosen.reasons)
        source = Source(
            recipe=routed.recipe.name,
            decision=routed.decision.name,
            model=chosen.name,
            weights=weights,
            headers=prepared.headers,
        )
        prepared = replace(prepared, body=body)
        return cached_of(given, routed, prepared, source, decider, self.service.answers)

    async def sent(self, opened: AsyncExitStack, cache: str) -> Sent:
        """The answer of a model that has begun; `opened` ends it.

        Args:
          cache: as in Outcome. What is read here must not be compressed.
        """
        service, given, prepared = self.service, self.given, self.prepared
        outcome = replace(self.outcome, cache=cache)

        def changed(headers: Mapping[str, str]) -> dict[str, str]:
            is_read = cache or given.api == "responses" or cascade is not None
            plain = {"accept-encoding": "identity"} if is_read else {}
            return prepared.headers.applied(headers) | plain

        def call_of(candidate: Candidate) -> tuple[Upstream, Call]:
            target = given.router.targets[candidate.model]
            body = with_reasoning(prepared.body, given.api, candidate.reasons)
            if cascade is not None:
                body = with_logprobs(body, given.api, cascade)
            call = given.call(target, body, changed=changed)
            return target.upstream or self.local, call

        def facts() -> Facts:
            found = service.facts(self.routed, given.request_id)
            return replace(found, asked=asked) if asked else found

        asked, cascade = dict[str, str](), self.routed.policy.algorithm.confidence
        ask = partial(service.dispatcher.send, self.routed, facts, call_of, opened)
        try:
            if cascade is not None and not is_cascade(self.routed.select(facts())):
                cascade = None
            if cascade is None:
                sent = await ask()
            else:
                sent = await first_sure(ask, asked, opened, cascade, given)
        except (NoModelError, ApiError) as error:
            told = _no_model(error) if isinstance(error, NoModelError) else error
            service.tell(replace(outcome, path="error", error=told))
            raise told from None
        service.tell(replace(outcome, sent=sent))
        if prepared.shadow is not None:
            name, shadow = self.routed.name, prepared.shadow
            service.shadows.send(name, shadow, given, prepared.body, self.local)
        return sent


def prepared_of(routed: Routed, body: Json, request_id: str, *, counts: bool = False) -> Prepared:
    """A request's body after the plugins of its decision; `counts` is as in Asked."""
    plugins = () if routed.decision is None else routed.decision.plugins
    found = {(key.kind, key.name): each for key, each in routed.found.items()}
    asked = Asked(request_id=request_id, now=time.time(), found=found, counts=counts)
    return prepare(body, routed.request.api, [each.configuration for each in plugins], asked)


def _no_model(error: NoModelError) -> ApiError:
    """The error of a request that no model of its decision may answer."""
    if not error.may_pass:
        return ApiError(400, f"no model can answer this request: {error}", code="no_model")
    return later(503, f"no model can answer now: {error}", "no_model")
