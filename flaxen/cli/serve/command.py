"""`flaxen serve`: an OpenAI-compatible server for one model."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from flaxen.cli.cpu import announce
from flaxen.cli.definitions import find_definition
from flaxen.cli.machine import MachineOptions
from flaxen.cli.options import (
    BatchOptions,
    ChatTemplateOptions,
    ContextOptions,
    ModelArgument,
    ModelOptions,
    engine_args,
)
from flaxen.cli.progress import show_progress
from flaxen.cli.sampling import GenerationConfigOptions
from flaxen.cli.serve.adapters import LoraOptions
from flaxen.cli.serve.fine_tuning import FineTuningOptions
from flaxen.cli.serve.options import (
    LogLevel,
    RequestLimitOptions,
    ServerOptions,
    ServingOptions,
    server_config,
)

if TYPE_CHECKING:
    from fastapi import FastAPI

    from flaxen.build import Parts
    from flaxen.engine.async_engine import AsyncEngine
    from flaxen.engine.config import LoraLimits
    from flaxen.engine_args import EngineArgs
    from flaxen.server.config import ServerConfig


def serve(
    model: ModelArgument,
    server: ServerOptions,
    limits: RequestLimitOptions,
    model_options: ModelOptions,
    context: ContextOptions,
    batch: BatchOptions,
    serving: ServingOptions,
    machine: MachineOptions,
    template: ChatTemplateOptions,
    defaults: GenerationConfigOptions,
    lora: LoraOptions,
    fine_tuning: FineTuningOptions,
) -> None:
    """Serve a model over the OpenAI API, until SIGTERM or Ctrl-C.

    /health answers once the weights are read and what a single request needs is compiled; what
    many at once need is compiled while the server is idle, or when they first come. All of it is
    kept for the next start. Then try: curl http://127.0.0.1:8000/v1/models
    """
    # The cheap checks come first: a bad option must not wait for the weights.
    engine_sequences = serving.max_waiting + batch.max_num_seqs
    config = server_config(server, limits, engine_sequences=engine_sequences)
    if fine_tuning.data_dir is not None:  # jobs make adapters
        lora = replace(lora, enable_lora=True)
    lora.check()
    _log(server.log_level)
    _check_address(server)
    with fine_tuning.open_stores(lora.max_lora_rank) as stores:
        groups = (model_options, context, batch, serving, machine, template, defaults)
        args = engine_args(model, *groups, max_logprobs=limits.max_logprobs)
        cpu = machine.set_up()
        start_s = time.perf_counter()
        parts = _build(args, model_options, lora.limits())
        announce(cpu)
        with contextlib.ExitStack() as stack:
            engine, app = _start(stack, parts, config, lora)
            if stores is not None:
                from flaxen.fine_tuning import add_jobs

                share = fine_tuning.fine_tuning_share
                stack.enter_context(add_jobs(app, config, stores, engine, parts, share=share))
            name = (config.served_model_names or (parts.info.name,))[0]
            code = _run(app, engine, server, partial(_say_ready, name, start_s))
    raise typer.Exit(code)


def _log(level: LogLevel) -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("flaxen").setLevel(level.upper())  # other loggers: warnings


def _check_address(server: ServerOptions) -> None:
    from flaxen.server.run import listen

    listen(server.host, server.port, server.socket_path).close()


def _build(args: EngineArgs, model_options: ModelOptions, lora: LoraLimits | None) -> Parts:
    from flaxen.build import build

    with show_progress(Console(stderr=True)) as on_progress:
        parts = build(
            args,
            on_progress,
            compile_all=False,  # AsyncEngine compiles the rest
            lora=lora,
            definition=find_definition(args.model, model_options.checkpoint),
        )
    gc.freeze()  # long-lived objects are excluded from garbage collection
    return parts


def _start(
    stack: contextlib.ExitStack, parts: Parts, config: ServerConfig, lora: LoraOptions
) -> tuple[AsyncEngine, FastAPI]:
    """Starts the engine's thread, which ends with the stack, and makes the application."""
    from flaxen.engine.async_engine import AsyncEngine
    from flaxen.server.app import create_app

    engine = stack.enter_context(AsyncEngine(parts.engine))
    lora.load_modules(engine, parts.model, config.served_model_names or (parts.info.name,))
    files = lora.files(parts.model)
    return engine, create_app(engine, parts.tokenizer, config, adapter_files=files)


def _run(
    app: FastAPI, engine: AsyncEngine, server: ServerOptions, on_ready: Callable[[str], None]
) -> int:
    """Serves until a signal; returns the exit code."""
    from flaxen.server.run import run

    return run(
        app,
        engine,
        host=server.host,
        port=server.port,
        uds=server.socket_path,
        drain_s=server.drain_s,
        on_ready=on_ready,
    )


def _say_ready(name: str, start_s: float, url: str) -> None:
    elapsed_s = time.perf_counter() - start_s
    # On one line without wrapping: programs that start a server read the URL from it.
    line = f"{name} is served on {url} (ready in {elapsed_s:.1f} s)"
    Console(stderr=True).out(line, highlight=False)
