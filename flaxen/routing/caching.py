"""Caching: answers a decided request from the cache, or keeps the answer that a model gives."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace

from flaxen.router.plugins.answers.streams import wants_usage, whole_answer
from flaxen.router.plugins.cache import AnswerCache, Flight, Hit
from flaxen.router.plugins.cache_key import CacheKey, Source, key_of
from flaxen.router.plugins.cache_settings import Controls, controls_of
from flaxen.router.plugins.preparing import Prepared
from flaxen.router.plugins.reply import PluginError
from flaxen.router.selection.neighbours import Vector
from flaxen.router_config.settings import CacheStore
from flaxen.routing.deciding import RecipeDecider, Routed
from flaxen.routing.given import Given
from flaxen.routing.upstream import Answer
from flaxen.server.errors import invalid

_MOST_BYTES = 1 << 20  # of an answer that is kept
_TURN_S = 60.0  # that a decision's ttl_turns stand for, as in the public reference


class AnswerStore:
    """The answers that are kept, as long as the size of the store does not change."""

    def __init__(self) -> None:
        self._settings, self.cache = CacheStore(), AnswerCache()

    def of(self, settings: CacheStore) -> AnswerCache:
        """The cache with these settings; another size or eviction begins with an empty one."""
        size = settings.max_entries, settings.eviction_policy
        if size != (self._settings.max_entries, self._settings.eviction_policy):
            self._settings = settings
            self.cache = AnswerCache(max_entries=size[0], eviction=size[1])
        return self.cache


@dataclass(kw_only=True)
class Cached:
    """A request whose answer may be in the cache, or be kept there.

    Attributes:
      embed: computes the embedding of the key's text; None: it could not.
      threshold: the least cosine of a similar request.
      model: the candidate that would answer it; an answer of another is not kept.
      ttl_s: how long an answer is kept, in seconds.
    """

    cache: AnswerCache
    key: CacheKey
    controls: Controls
    api: str
    model: str
    wants_usage: bool
    ttl_s: float
    embed: Callable[[str], Awaitable[Vector | None]]
    threshold: float
    _vector: Vector | None = None

    async def find(self) -> Hit | Flight:
        """The kept answer; or the flight of this request, which must end, where it must bring the
        answer itself. Where another request brings it, this one waits for that."""
        asked_at = time.monotonic()
        hit = self._hit(asked_at)
        if hit is None and self.key.similar:
            self._vector = await self.embed(self.key.text)
        while True:
            now = time.monotonic()
            if (hit := hit or self._hit(now)) is not None:
                return hit
            if not (self.controls.reads and self.controls.writes):
                return Flight(self.key, now)  # nobody may wait for an answer that is not kept
            found = self.cache.fly(self.key, now, asked_at)
            if isinstance(found, Flight):
                return found
            ended = asyncio.Event()
            found.flight.on_end.append(ended.set)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(found.until - now):
                    await ended.wait()

    def _hit(self, now: float) -> Hit | None:
        """The kept answer, if the request may have one."""
        if not self.controls.reads:
            return None
        return self.cache.find(
            self.key,
            now,
            wants_usage=self.wants_usage,
            max_age_s=self.controls.max_age_s,
            vector=self._vector,
            threshold=self.threshold,
        )

    def kept(self, answer: Answer, model: str, flight: Flight) -> Answer:
        """The same answer, of status 200, which is kept once it has come to its end."""
        if model != self.model or not self.controls.writes:
            return answer
        return replace(answer, chunks=self._chunks(answer, flight))

    async def _chunks(self, answer: Answer, flight: Flight) -> AsyncGenerator[bytes, None]:
        body = bytearray()
        async for chunk in answer.chunks:
            if len(body) <= _MOST_BYTES:
                body += chunk
            yield chunk
        if len(body) <= _MOST_BYTES:
            whole = whole_answer(self.api, bytes(body), is_stream=answer.is_stream)
            if whole is not None:
                self.cache.keep(flight, whole, time.monotonic(), self.ttl_s, self._vector)


def cached_of(
    given: Given,
    routed: Routed,
    prepared: Prepared,
    source: Source,
    decider: RecipeDecider,
    store: AnswerStore,
) -> Cached | None:
    """What the cache knows a request by; None where it has nothing to do with it.

    Args:
      source: what would answer it.

    Raises:
      ApiError: 400, the request asks something of the cache that is not allowed.
    """
    plugin, settings = prepared.cache, given.router.config.settings.stores.response_cache
    if plugin is None or not settings.enabled or given.path.endswith("/count_tokens"):
        return None
    assert routed.decision is not None
    retentions = [each.retention for each in routed.decision.emits]
    try:
        controls = controls_of(plugin.request_controls, given.http.headers)
    except PluginError as error:
        raise invalid(str(error)) from None
    key = key_of(plugin, given.api, prepared.body, given.http.headers, source, decider.identity)
    is_dropped = any(each.drop for each in retentions)
    if key is None or is_dropped or not (controls.reads or controls.writes):
        return None
    turns = max((each.ttl_turns or 0 for each in retentions), default=0)
    return Cached(
        cache=store.of(settings),
        key=key,
        controls=controls,
        api=given.api,
        model=source.model,
        wants_usage=wants_usage(given.api, given.body),
        ttl_s=turns * _TURN_S or plugin.ttl_s(controls, settings.ttl_seconds),
        embed=decider.vector,
        threshold=plugin.threshold(settings.similarity_threshold),
    )
