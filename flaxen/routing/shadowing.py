"""Shadows: copies of requests to other models, whose answers are read and thrown away."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from flaxen.router.plugins.reply import Json
from flaxen.router.plugins.shadow import ShadowDispatch, shadow_body
from flaxen.routing.given import Given, raw_body
from flaxen.routing.upstream import Call, Upstream, UpstreamError
from flaxen.server.request_log import RequestLog

_BUSY = 429


@dataclass
class _Lane:
    """The copies of one decision: a turn for each that is sent, and how many are sent or wait."""

    turns: asyncio.Semaphore
    num_open: int = 0


@dataclass
class Shadows:
    """Sends copies, each in a task of its own, bounded for each decision.

    Attributes:
      listeners: told of each copy's model and outcome: answered, refused (status 4xx), failed,
        timeout, too_large, or dropped, as too many waited.
    """

    listeners: list[Callable[[str, str], None]] = field(default_factory=list)
    _lanes: dict[tuple[str, ShadowDispatch], _Lane] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)  # else they could be collected

    def send(
        self, decision: str, plugin: ShadowDispatch, given: Given, body: Json, local: Upstream
    ) -> None:
        """Sends a copy of a request, once whoever calls this waits for something.

        Args:
          body: of the request, after the plugins.
          local: answers for the models of this process.
        """
        key, turns = (decision, plugin), plugin.max_concurrency
        lane = self._lanes.setdefault(key, _Lane(asyncio.Semaphore(turns)))
        if lane.num_open >= turns + plugin.max_queue_depth:
            self._tell(plugin.model, "dropped")
            return
        lane.num_open += 1

        async def work() -> None:
            outcome = "failed"
            try:
                async with lane.turns:
                    outcome = await _outcome(plugin, given, body, local)
            finally:
                lane.num_open -= 1
                if not lane.num_open:
                    del self._lanes[key]
                self._tell(plugin.model, outcome)

        task = asyncio.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tell(self, model: str, outcome: str) -> None:
        for listen in self.listeners:
            listen(model, outcome)


async def _outcome(plugin: ShadowDispatch, given: Given, body: Json, local: Upstream) -> str:
    """Sends a copy until it is answered, at most max_retries times again."""
    target, outcome = given.router.targets[plugin.model], "failed"
    raw = raw_body(shadow_body(body, plugin), target)
    # No header of the client goes on, and what this process keeps of the request is not touched.
    own = {"request_id": uuid.uuid4().hex, "log": RequestLog(method="POST", path=given.path)}
    call = Call(
        path=given.path,
        headers=(("content-type", "application/json"), ("content-length", str(len(raw)))),
        body=raw,
        scope={**given.http.scope, "state": {**given.http.scope["state"], **own}},
    )
    for _ in range(1 + plugin.max_retries):
        try:
            async with asyncio.timeout(plugin.timeout_seconds):
                answer = await (target.upstream or local).send(call)
                async with aclosing(answer.chunks):
                    size = 0
                    async for chunk in answer.chunks:
                        size += len(chunk)
                        if size > plugin.max_response_bytes:
                            return "too_large"
        except TimeoutError:
            outcome = "timeout"
        except UpstreamError:
            outcome = "failed"
        else:
            if answer.status < 500 and answer.status != _BUSY:
                return "answered" if answer.status < 400 else "refused"
            outcome = "failed"
    return outcome
