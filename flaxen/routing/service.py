"""RoutingService: what the routes of a router share, and what lasts when its file changes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from flaxen.protocol import EngineClosedError
from flaxen.router.request import RoutedRequest
from flaxen.router.selection.candidate import Facts
from flaxen.routing.caching import AnswerStore
from flaxen.routing.compiled import Router
from flaxen.routing.deciding import Routed
from flaxen.routing.dispatch import Dispatcher, Sent
from flaxen.routing.sessions import Sessions
from flaxen.routing.shadowing import Shadows
from flaxen.routing.upstream import Upstream, later
from flaxen.server.body import body_lane
from flaxen.server.config import ServerConfig
from flaxen.server.errors import ApiError
from flaxen.server.lanes import Lane

_POLL_S = 0.05  # while open requests finish
_LARGE_TEXT = 64 * 1024  # characters; the signals of a longer one are found on a thread


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a request that was decided.

    Attributes:
      body: the client's.
      path: how it was answered, as x-vsr-response-path says it.
      cache: hit or miss, where the decision keeps answers; else "".
      sent: the answer that began; None if none did, or no model was asked.
      error: why none did.
      added_s: the seconds until the request went to a model, for reading and deciding.
    """

    request_id: str
    body: Mapping[str, Any]
    routed: Routed
    added_s: float
    path: str = "upstream"
    cache: str = ""
    sent: Sent | None = None
    error: ApiError | None = None


# From the service, what answers for the models of this process, and a request.
Handler = Callable[["RoutingService", Upstream, Request], Awaitable[Response]]


@dataclass(kw_only=True)
class RoutingService:
    """What the routes of a router share.

    Attributes:
      router: the configuration as it is now. It is replaced as a whole, and a request keeps the one
        that it began with.
      config: limits of bodies, keys, and the longest time of a request.
      max_open, max_waiting: the most requests that are answered at once, and that wait for it.
      listeners: told of each decided request, when its answer begins or fails.
      error_listeners: told of each error that the router answers with.
      own_routes: what the router answers itself, by method and path.
      stale: why the file of the configuration can't be used since it changed; "" if it can.
      is_closing: whether the process ends, so that no new request is taken.
      log_path: the file of the replay log; None: there is none, whatever the configuration says.
      num_running, num_waiting: its requests; num_aborted: those that its end breaks off are not
        counted; num_previews: those that are computed now.
    """

    router: Router
    config: ServerConfig
    max_open: int = 1024
    max_waiting: int = 4096
    listeners: list[Callable[[Outcome], None]] = field(default_factory=list)
    error_listeners: list[Callable[[ApiError], None]] = field(default_factory=list)
    own_routes: dict[tuple[str, str], Handler] = field(default_factory=dict)
    stale: str = ""
    is_closing: bool = False
    log_path: Path | None = None
    num_running: int = 0
    num_waiting: int = 0
    num_aborted: int = 0
    num_previews: int = 0

    def __post_init__(self) -> None:
        self.dispatcher, self.answers, self.shadows = Dispatcher(), AnswerStore(), Shadows()
        self.sessions = Sessions()
        self.bodies = body_lane()
        self._long_texts = Lane("their signals", num_threads=1, max_waiting=64)
        self._turns = asyncio.Semaphore(self.max_open)

    def stats(self) -> RoutingService:
        """Its numbers of requests, for who ends it."""
        return self

    def check_health(self) -> None:
        """Raises EngineClosedError once the process ends."""
        if self.is_closing:
            raise EngineClosedError("the router is shutting down")

    async def close(self, drain_s: float = 0.0) -> None:
        """Takes no more requests, and waits for open ones at most so many seconds."""
        self.is_closing = True
        for _ in range(int(drain_s / _POLL_S)):
            if not self.num_running:
                break
            await asyncio.sleep(_POLL_S)

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for a request's turn, first come first served, and limits its whole time.

        Raises:
          ApiError: 429, too many wait; 503, the process ends; 504, the time is over.
        """
        if self.is_closing:
            raise later(503, "the router is shutting down", "unavailable")
        if self._turns.locked() and self.num_waiting >= self.max_waiting:
            told = (
                f"{self.num_running} requests are answered, and {self.num_waiting} wait, the most"
            )
            raise later(429, f"{told} that this router keeps", "queue_full", "rate_limit_error")
        limit_s = self.config.request_timeout_s
        try:
            async with asyncio.timeout(limit_s), self._counted():
                yield
        except TimeoutError:
            raise later(504, f"it took longer than {limit_s} seconds", "timeout") from None

    @contextlib.asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        self.num_waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self.num_waiting -= 1
        self.num_running += 1
        try:
            yield
        finally:
            self.num_running -= 1
            self._turns.release()

    def tell(self, outcome: Outcome) -> None:
        """Tells who listens what became of a request."""
        for listen in self.listeners:
            listen(outcome)

    async def compute(self, request: RoutedRequest, work: Callable[[], Any]) -> Any:
        """Finds signals: on a thread where the texts are so long that others would wait."""
        if sum(len(message.text) for message in request.messages) <= _LARGE_TEXT:
            return work()
        return await self._long_texts.run(work)

    def facts(self, routed: Routed, request_id: str) -> Facts:
        """What is known now of the models that may answer a request."""
        now, observed = time.monotonic(), self.dispatcher.observed
        circuit = routed.fallback.circuit_breaker
        models = {each.model for each in routed.candidates}
        models |= {routed.session.candidate.model} if routed.session else set()
        live = {model: observed[model].live(now, circuit) for model in models}
        return Facts(live=live, seed=request_id, query=routed.query, examples=routed.examples)
