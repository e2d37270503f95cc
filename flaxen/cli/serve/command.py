"""`flaxen serve`: an OpenAI-compatible server for one model or several."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from flaxen.cli.machine import MachineOptions, ModelsDirOptions, find_places
from flaxen.cli.options import (
    BatchOptions,
    ChatTemplateOptions,
    ContextOptions,
    MeshOptions,
    ModelOptions,
    RunnerOptions,
    StepSizeOptions,
    engine_args,
)
from flaxen.cli.processes import ProcessOptions, follow
from flaxen.cli.progress import show_progress
from flaxen.cli.sampling import GenerationConfigOptions
from flaxen.cli.serve.adapters import LoraOptions, serve_adapter
from flaxen.cli.serve.announcement import (
    Served,
    about,
    is_public,
    log_ready,
    print_ready,
    ready_line,
)
from flaxen.cli.serve.fine_tuning import FineTuningOptions
from flaxen.cli.serve.given import Given
from flaxen.cli.serve.logs import LogFormat, logging_to
from flaxen.cli.serve.named_models import ModelsArgument, NamedModel, name_models
from flaxen.cli.serve.options import (
    RequestLimitOptions,
    ServerOptions,
    ServingOptions,
    server_config,
)
from flaxen.cli.serve.parser_options import ParserOptions
from flaxen.cli.serve.pool_options import PoolOptions, refuse_for_several
from flaxen.cli.serve.running import run_app
from flaxen.protocol import EngineClosedError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from flaxen.build import Parts
    from flaxen.engine.async_engine import AsyncEngine
    from flaxen.engine_args import EngineArgs
    from flaxen.job_routes.stores import Stores
    from flaxen.scheduling.config import LoraLimits
    from flaxen.server.config import ServerConfig

logger = logging.getLogger("flaxen.server")


def serve(
    model: ModelsArgument,
    server: ServerOptions,
    limits: RequestLimitOptions,
    parsers: ParserOptions,
    model_options: ModelOptions,
    context: ContextOptions,
    steps: StepSizeOptions,
    batch: BatchOptions,
    mesh: MeshOptions,
    processes: ProcessOptions,
    serving: ServingOptions,
    models: ModelsDirOptions,
    machine: MachineOptions,
    runner: RunnerOptions,
    template: ChatTemplateOptions,
    defaults: GenerationConfigOptions,
    lora: LoraOptions,
    fine_tuning: FineTuningOptions,
    pool: PoolOptions,
) -> None:
    """Serve one model or several over the OpenAI API, until SIGTERM or Ctrl-C.

    /health answers once the weights are read and what requests need is compiled; what only makes
    some of them faster is compiled after that. All of it is kept for the next start. Then open
    http://127.0.0.1:8000/ or try: curl http://127.0.0.1:8000/v1/models
    """
    with logging_to(sys.stderr, server.log_format, server.least_level), _errors(server.log_format):
        # The cheap checks come first: a bad option must not wait for the weights.
        named = name_models(model, server.served_model_names)
        pool.check(len(named))
        parsers.check(len(named))
        processes.check()
        engine_sequences = serving.max_waiting + (steps.max_num_seqs or 0)
        config = server_config(server, limits, parsers, engine_sequences=engine_sequences)
        if fine_tuning.data_dir is not None:  # jobs make adapters
            lora = replace(lora, enable_lora=True)
            processes.refuse("--data-dir", "fine-tuning trains on the weights of one process")
        of_engine = (model_options, runner, context, steps, batch, serving, mesh)
        groups = (*of_engine, models, machine, template, defaults)
        make_args = partial(_engine_args, groups, max_logprobs=limits.max_logprobs)
        given = Given(
            server=server,
            config=config,
            lora=lora,
            fine_tuning=fine_tuning,
            machine=machine,
            places=find_places(models, machine),
            make_args=make_args,
        )
        if len(named) > 1:
            refuse_for_several(server, model_options, template, mesh, processes)
            check_address(server)
            from flaxen.cli.serve.several import serve_several

            code = serve_several(named, given, pool)
        else:
            code = _serve_one(named[0], given, mesh, processes, pool.models_memory)
    raise typer.Exit(code)


def _engine_args(groups: tuple[Any, ...], model: str, **more: Any) -> EngineArgs:
    return engine_args(model, *groups, **more)


def _serve_one(
    named: NamedModel,
    given: Given,
    mesh: MeshOptions,
    processes: ProcessOptions,
    memory_bytes: int | None,
) -> int:
    """Serves a single model. Returns the exit code."""
    server = replace(given.server, served_model_names=list(named.names))
    model, server, lora = serve_adapter(named.model, server, given.lora, given.places)
    lora.check()
    config = replace(given.config, served_model_names=tuple(server.served_model_names))
    args = given.make_args(model, memory_bytes=memory_bytes)
    num_devices = mesh.num_devices
    num_local_devices = processes.num_local_devices(num_devices)
    if not processes.process_id:  # the others listen on nothing
        check_address(server)
    if processes.start():
        given.machine.set_up(num_devices, num_local_devices)
        follow(args, lora.limits())
        return 0
    with contextlib.ExitStack() as stack:
        stores = stack.enter_context(given.fine_tuning.open_stores(lora.max_lora_rank))
        cpu = given.machine.set_up(num_devices, num_local_devices)
        start_s = time.perf_counter()
        parts = _build(args, lora.limits(), server)
        engine, app = _start(stack, parts, config, lora, stores)
        batches = None
        if stores is not None:
            from flaxen.fine_tuning import add_jobs

            share = given.fine_tuning.fine_tuning_share
            jobs = add_jobs(app, config, stores, engine, parts, share=share)
            batches = stack.enter_context(jobs)
        served = Served(parts=parts, config=config, cpu=cpu, engine=engine, stores=stores)
        say_ready = partial(_say_ready, served, server, start_s)
        return run_app(app, engine, server, say_ready, batches)


@contextlib.contextmanager
def _errors(log_format: LogFormat) -> Iterator[None]:
    """Writes an error that ends the command into the log too, where that is JSON."""
    try:
        yield
    except (ValueError, OSError, EngineClosedError) as error:
        if log_format is LogFormat.TEXT:
            raise  # `flaxen` prints it
        logger.critical("%s", error)
        raise typer.Exit(2) from error


def check_address(server: ServerOptions) -> None:
    """Fails at once if nothing can be listened on; warns of an address that anybody may use."""
    from flaxen.server.run import listen, url_of

    with listen(server.host, server.port, server.socket_path) as listener:
        url = url_of(listener)
    if not server.api_keys and is_public(url):
        logger.warning(
            "other machines reach %(host)s, and no API key is asked for: whoever reaches it can "
            "use the server. Give --api-key KEY (or FLAXEN_API_KEY), or --host 127.0.0.1",
            {"host": server.host},
        )


def _build(args: EngineArgs, lora: LoraLimits | None, server: ServerOptions) -> Parts:
    from flaxen.build import build

    # The server is imported while the weights are read, which leaves the interpreter to others.
    threading.Thread(target=_import_server, name="flaxen-imports", daemon=True).start()
    # No bar with --quiet, nor beside a log in JSON, which programs read.
    shows = not server.quiet and server.log_format is LogFormat.TEXT
    with show_progress(Console(stderr=True, quiet=not shows)) as on_progress:
        parts = build(
            args,
            on_progress,
            compile_all=False,  # AsyncEngine compiles the rest
            lora=lora,
        )
    gc.freeze()  # long-lived objects are excluded from garbage collection
    return parts


def _import_server() -> None:
    import flaxen.server.app  # noqa: F401


def _start(
    stack: contextlib.ExitStack,
    parts: Parts,
    config: ServerConfig,
    lora: LoraOptions,
    stores: Stores | None,
) -> tuple[AsyncEngine, FastAPI]:
    """Starts the engine's thread, which ends with the stack, and makes the application."""
    from flaxen.api_description.routes import add_description
    from flaxen.cli.more_routes import more_routes, open_responses
    from flaxen.engine.async_engine import AsyncEngine
    from flaxen.server.app import create_app

    engine = stack.enter_context(AsyncEngine(parts.engine))
    lora.load_modules(engine, parts.model, config.served_model_names or (parts.info.name,))
    files = lora.files(parts.model)
    routes = more_routes(open_responses(stores))
    app = create_app(engine, parts.tokenizer, config, adapter_files=files, more_routes=routes)
    add_description(app, config)
    return engine, app


def _say_ready(served: Served, server: ServerOptions, start_s: float, url: str) -> None:
    """Says what is served and why, and that it is ready."""
    seconds = round(time.perf_counter() - start_s, 3)
    facts = () if server.quiet else tuple(about(served, url))
    if server.log_format is LogFormat.TEXT:
        print_ready(Console(stderr=True), facts, ready_line(served.name, url, seconds))
    else:
        log_ready(logger, facts, served.name, url, seconds)
