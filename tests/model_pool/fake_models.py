"""Models of fake engines, and a pool that holds them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from flaxen.model_pool.counters import Counters
from flaxen.model_pool.pool import ModelPool
from flaxen.model_pool.served_model import ServedModel
from flaxen.server.app import Routes, create_model_app
from flaxen.server.config import ServerConfig
from flaxen.server.metrics import Metrics, ServerMetrics
from tests.server.fakes import FakeEngine, byte_tokenizer

_TOKENIZER, _WITHOUT_CHAT = byte_tokenizer(), byte_tokenizer(None)


@dataclass(frozen=True, kw_only=True)
class LoadedFake:
    engine: FakeEngine
    app: Any
    can_chat: bool = True


@dataclass(kw_only=True)
class Fakes:
    """What the pool does is noted in `log`, as "+name" and "-name"."""

    config: ServerConfig = field(default_factory=ServerConfig)
    metrics: ServerMetrics = field(default_factory=ServerMetrics)
    log: list[str] = field(default_factory=list)
    engines: dict[str, FakeEngine] = field(default_factory=dict)  # the latest of each model
    loading: set[str] = field(default_factory=set)
    most_at_once: int = 0  # loads
    faults: dict[str, Exception] = field(default_factory=dict)  # in place of the next loads
    gates: dict[str, threading.Event] = field(default_factory=dict)  # that a load waits for
    step_s: float = 0.0
    more_routes: Routes = field(default_factory=dict)
    chats: bool = False  # a chat template is a process, which takes a while to start

    def model(self, name: str, num_bytes: int = 1, **fields: Any) -> ServedModel:
        counters, names = Counters(), fields.pop("names", (name,))
        metrics = Metrics(counters, names[0], self.metrics)
        config = replace(self.config, served_model_names=names)

        def load() -> LoadedFake:
            self.loading.add(name)
            self.most_at_once = max(self.most_at_once, len(self.loading))
            try:
                if name in self.gates:
                    assert self.gates[name].wait(10)
                if name in self.faults:
                    raise self.faults[name]
            finally:
                self.loading.remove(name)
            self.log.append(f"+{name}")
            engine = _Logged(lambda: self.log.append(f"-{name}"), step_s=self.step_s)
            self.engines[name] = engine
            tokenizer = _TOKENIZER if self.chats else _WITHOUT_CHAT
            app = create_model_app(
                engine, tokenizer, config, metrics=metrics, more_routes=self.more_routes
            )
            return LoadedFake(engine=engine, app=app)

        given = {"adapters": (), "stays": False, "root": name, "max_model_len": 4096, **fields}
        return ServedModel(
            names=names, created=1, num_bytes=num_bytes, counters=counters,
            load=load, **given,
        )  # fmt: skip

    def pool(self, *models: ServedModel, budget_bytes: int = 2, **more: Any) -> ModelPool:
        options = {"reclaim": lambda: None, "retry_s": 0.0, **more}
        return ModelPool(models, budget_bytes=budget_bytes, **options)


class _Logged(FakeEngine):
    def __init__(self, on_close: Callable[[], None], *, step_s: float) -> None:
        FakeEngine.__init__(self, step_s=step_s)
        self._on_close = on_close

    async def close(self, drain_s: float = 0.0) -> None:
        await FakeEngine.close(self, drain_s)
        self._on_close()
