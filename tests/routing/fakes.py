"""Servers of models that are not there, and routers before them, in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flaxen.router_config.load import load_config
from flaxen.routing.attaching import proxy_app
from flaxen.routing.compiled import Router
from flaxen.routing.deciding import LearnedSignals
from flaxen.routing.http_client import HttpClient
from flaxen.routing.service import RoutingService
from flaxen.routing.upstream import Answer, Call, UpstreamError
from flaxen.server.config import ServerConfig
from tests.server.clients import get

# Two models for what is decided, one for the rest; `math` is chosen by a word.
FILE = """
version: v0.3
providers:
  defaults: {model: small}
  models:
    - {name: small, backend_refs: [{endpoint: "small:1"}]}
    - {name: large, backend_refs: [{endpoint: "large:1"}]}
    - {name: other, provider_model_id: org/other-7b, backend_refs: [{endpoint: "other:1"}]}
routing:
  signals:
    keywords:
      - {name: sums, operator: OR, keywords: [sum, integral]}
  decisions:
    - name: math
      priority: 10
      rules: {operator: AND, conditions: [{type: keyword, name: sums}]}
      modelRefs: [{model: large}, {model: other}]
MORE
entrypoints: [{model_names: [helper], recipe: default}]
"""


@dataclass(kw_only=True)
class FakeUpstream:
    """Answers with what it was told to, and notes what it was sent.

    Attributes:
      answers: one for each request, the last of them for all that follow: a status with its JSON, a
        list of chunks of a stream (an exception breaks it off), or an exception.
      delay_s: before the answer begins, and between chunks.
    """

    answers: list[Any] = field(default_factory=lambda: [(200, {"text": "ok"})])
    delay_s: float = 0.0
    calls: list[Call] = field(default_factory=list)
    num_open: int = 0

    async def send(self, call: Call) -> Answer:
        self.calls.append(call)
        self.num_open += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        try:
            await asyncio.sleep(self.delay_s)
            if isinstance(answer, Exception):
                raise answer
        except BaseException:
            self.num_open -= 1
            raise
        if isinstance(answer, list):
            headers = (("content-type", "text/event-stream"),)
            return Answer(status=200, headers=headers, chunks=self._chunks(answer))
        status, body = answer
        headers = (("content-type", "application/json"), ("x-own", "kept"))
        chunks = self._chunks([json.dumps(body).encode()])
        return Answer(status=status, headers=headers, chunks=chunks)

    async def _chunks(self, chunks: list[Any]) -> AsyncGenerator[bytes, None]:
        try:
            for index, chunk in enumerate(chunks):
                await asyncio.sleep(self.delay_s if index else 0)
                if isinstance(chunk, Exception):
                    raise chunk
                yield chunk
        finally:
            self.num_open -= 1

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(call.body) for call in self.calls]


@dataclass(kw_only=True)
class FakeProxy:
    """A router before fake servers, one for each model."""

    upstreams: dict[str, FakeUpstream]
    service: RoutingService
    app: Any


def make_router(text: str, upstreams: Mapping[str, FakeUpstream], **more: Any) -> Router:
    """A router whose models are fakes."""
    config = load_config(text, served=())
    router = Router(config, served=(), environment={}, client=HttpClient(), **more)
    router.targets = {
        name: replace(target, upstream=upstreams[name]) for name, target in router.targets.items()
    }
    return router


def make_proxy(
    more: str = "",
    *,
    edit: Callable[[str], str] = lambda text: text,
    learned: LearnedSignals | None = None,
    log_path: Path | None = None,
    **config: Any,
) -> FakeProxy:
    """A router by FILE.

    Args:
      more: what the recipe has beside, indented by two.
      edit: changes the file.
      learned: finds the signals that need a model.
      log_path: the file of the replay log.
    """
    upstreams = {name: FakeUpstream() for name in ("small", "large", "other")}
    text = edit(FILE.replace("MORE", more))
    router = make_router(text, upstreams, learned={"default": learned} if learned else {})
    service = RoutingService(router=router, config=ServerConfig(**config), log_path=log_path)
    return FakeProxy(upstreams=upstreams, service=service, app=proxy_app(service))


def with_plugins(*plugins: str) -> Callable[[str], str]:
    """Gives the decision of FILE plugins."""
    models = "modelRefs: [{model: large}, {model: other}]"
    return lambda text: text.replace(models, f"{models}\n      plugins: [{', '.join(plugins)}]")


def metric(proxy: FakeProxy, name: str) -> float:
    """A number of the page of metrics, 0 if it is not there; `name` has its labels."""
    lines = get(proxy.app, "/metrics").text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), 0.0)


def broken() -> UpstreamError:
    return UpstreamError("connection refused")
