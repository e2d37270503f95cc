"""One of several models, once it is in memory.

Deliberately does not know which models are in memory, nor when.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flaxen.build import OnProgress, Parts, build
from flaxen.engine.async_engine import AsyncEngine
from flaxen.server.app import Routes, create_model_app
from flaxen.server.config import ServerConfig
from flaxen.server.metrics import Metrics
from flaxen.serving.planned_models import PlannedModel

if TYPE_CHECKING:
    from fastapi import FastAPI


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model in memory: what a pool asks of it, and its parts."""

    engine: AsyncEngine
    app: FastAPI
    parts: Parts

    @property
    def can_chat(self) -> bool:
        """Whether the model has a chat template."""
        tokenizer = self.parts.tokenizer
        return tokenizer.chat_template is not None or bool(tokenizer.named_templates)


def load_model(
    planned: PlannedModel,
    config: ServerConfig,
    metrics: Metrics,
    routes: Routes,
    on_progress: OnProgress | None = None,
) -> LoadedModel:
    """Loads a model and starts its engine. Raises what `build` raises."""
    wanted, adapters = planned.wanted, planned.wanted.adapters
    parts = build(wanted.args, on_progress, compiles_beside=True, lora=adapters.limits)
    engine = AsyncEngine(parts.engine)
    try:
        adapters.load(engine, parts.model, config.served_model_names)
        files = adapters.files(parts.model)
        app = create_model_app(
            engine,
            parts.tokenizer,
            config,
            metrics=metrics,
            adapter_files=files,
            more_routes=routes,
        )
    except BaseException:  # whatever it was, the engine's thread must not stay; it is raised again
        engine.stop()
        raise
    gc.freeze()  # long-lived objects are excluded from garbage collection
    return LoadedModel(engine=engine, app=app, parts=parts)
