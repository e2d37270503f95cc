"""Serves a single model. Imports the engine and the server only when they are needed."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from flaxen.serving.adapters import ServedAdapters
from flaxen.serving.announcement.facts import Served, about, about_model
from flaxen.serving.announcement.ready import say_ready
from flaxen.serving.reclaim import reclaim_memory
from flaxen.serving.router import add_router
from flaxen.serving.running import run_app
from flaxen.serving.server_args import ServerArgs

if TYPE_CHECKING:
    from fastapi import FastAPI

    from flaxen.build import Parts
    from flaxen.engine.async_engine import AsyncEngine
    from flaxen.engine_args import EngineArgs
    from flaxen.job_routes.stores import Stores
    from flaxen.scheduling.config import LoraLimits


def serve_one(args: EngineArgs, adapters: ServedAdapters, server: ServerArgs) -> int:
    """Serves a model until a signal. Returns the exit code.

    Raises:
      ValueError: the model, an adapter or an option can't be served.
    """
    with contextlib.ExitStack() as stack:
        stores = stack.enter_context(server.open_stores())
        computing = server.set_up()
        start_s = time.perf_counter()
        parts = _build(args, adapters.limits, server)
        engine, app = _start(stack, parts, server, adapters, stores, args.model)
        batches = None
        if stores is not None:
            from flaxen.serving.jobs import add_jobs

            share = server.fine_tuning_share
            jobs = add_jobs(app, server.config, stores, engine, parts, share=share)
            batches = stack.enter_context(jobs)
        names = server.config.served_model_names or (parts.info.name,)
        loras = (name for name, _ in adapters.at_start)
        beside = add_router(stack, app, server, (*names, *loras))
        served = Served(
            parts=replace(parts, params=None),  # the engine alone has them, and may free them
            config=server.config,
            computing=computing,
            engine=engine,
            stores=stores,
            about_model=tuple(about_model(parts, names)),
        )
        del parts
        on_ready = partial(say_ready, server, start_s, served.name, partial(about, served))
        return run_app(app, engine, server, on_ready, batches, beside)


def _build(args: EngineArgs, lora: LoraLimits | None, server: ServerArgs) -> Parts:
    from flaxen.build import build

    # The server is imported while the weights are read, which leaves the interpreter to others.
    threading.Thread(target=_import_server, name="flaxen-imports", daemon=True).start()
    with server.progress() as on_progress:
        parts = build(args, on_progress, compiles_beside=True, lora=lora)
    gc.freeze()  # long-lived objects are excluded from garbage collection
    return parts


def _import_server() -> None:
    import flaxen.server.app  # noqa: F401


def _start(
    stack: contextlib.ExitStack,
    parts: Parts,
    server: ServerArgs,
    adapters: ServedAdapters,
    stores: Stores | None,
    source: str,
) -> tuple[AsyncEngine, FastAPI]:
    """Starts the engine's thread, which ends with the stack, and makes the application."""
    from flaxen.api_description.routes import add_description
    from flaxen.engine.async_engine import AsyncEngine
    from flaxen.server.app import create_app
    from flaxen.serving.more_routes import more_routes, open_responses

    config = server.config
    engine = stack.enter_context(AsyncEngine(parts.engine))
    adapters.load(engine, parts.model, config.served_model_names or (parts.info.name,))
    files = adapters.files(parts.model)
    routes = more_routes(open_responses(stores))
    if config.dev_mode:
        from flaxen.control_routes.routes import control_routes
        from flaxen.engine.control import EngineControl

        control = EngineControl(engine, parts.read_weights, source, reclaim_memory)
        routes = {**routes, **control_routes(control)}
    app = create_app(engine, parts.tokenizer, config, adapter_files=files, more_routes=routes)
    add_description(app, config)
    return engine, app
