"""Serves several models: plans their memory, loads those of the start, and runs the pool.

Deliberately does not know how memory is divided, nor when a model is loaded or unloaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from flaxen.api_description.routes import add_description
from flaxen.build import OnProgress
from flaxen.cli.cpu import Cpu
from flaxen.cli.more_routes import model_routes, open_responses
from flaxen.cli.progress import show_progress
from flaxen.cli.serve.about_models import about_models
from flaxen.cli.serve.adapters import LoraOptions, serve_adapter
from flaxen.cli.serve.announcement import (
    about_address,
    about_fine_tuning,
    about_memory,
    log_ready,
    print_ready,
    ready_line,
)
from flaxen.cli.serve.devices import about_computing
from flaxen.cli.serve.fact import Fact
from flaxen.cli.serve.given import Given
from flaxen.cli.serve.loaded_model import LoadedModel, load_model
from flaxen.cli.serve.logs import LogFormat
from flaxen.cli.serve.named_models import NamedModel, check_distinct
from flaxen.cli.serve.options import ServerOptions
from flaxen.cli.serve.planned_models import Asked, MemoryPlan, PlannedModel, plan_models
from flaxen.cli.serve.pool_options import LoadAtStart, PoolOptions, divide_adapters
from flaxen.cli.serve.running import run_app
from flaxen.engine_args import EngineArgs
from flaxen.model_pool.app import create_pool_app
from flaxen.model_pool.counters import Counters
from flaxen.model_pool.pool import ModelPool
from flaxen.model_pool.served_model import ServedModel
from flaxen.responses_routes.responses import Responses
from flaxen.responses_routes.routes import model_free_routes
from flaxen.server.app import Routes
from flaxen.server.config import ServerConfig
from flaxen.server.metrics import Metrics, ServerMetrics

if TYPE_CHECKING:
    from fastapi import FastAPI

    from flaxen.job_routes.batches.batch_worker import BatchWorker
    from flaxen.job_routes.stores import Stores

logger = logging.getLogger("flaxen.server")
_LONGEST_WAIT_S = 3600.0  # for a model, where requests have no limit of their own


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """A pool, its application, and what it was planned with."""

    pool: ModelPool
    app: FastAPI
    plan: MemoryPlan


def serve_several(named: Sequence[NamedModel], given: Given, options: PoolOptions) -> int:
    """Serves several models until a signal. Returns the exit code.

    Raises:
      ValueError: a model, an adapter or an option can't be served, or the memory is too small.
    """
    lora, has_jobs = given.lora, given.fine_tuning.data_dir is not None
    which = options.load_at_start or LoadAtStart.FIRST
    stays = has_jobs or lora.allow_runtime_lora_updating
    if stays and which is LoadAtStart.NONE:
        raise ValueError(
            f"--load-at-start none and {'--data-dir' if has_jobs else '--lora-dir'} contradict "
            "each other: adapters that clients make or load are the first model's, which stays in "
            "memory for them. Leave --load-at-start out"
        )
    lora.check()
    divided = divide_adapters(
        lora, [each.names or (each.model,) for each in named], has_jobs=has_jobs
    )
    models = [_with_base(each, own, given) for each, own in zip(named, divided, strict=True)]
    with contextlib.ExitStack() as stack:
        stores = stack.enter_context(given.fine_tuning.open_stores(lora.max_lora_rank))
        cpu = given.machine.set_up(1, None)
        start_s = time.perf_counter()
        with _progress(given.server) as report:
            plan = plan_models(
                [Asked(args=each.args, lora=each.lora.limits()) for each in models],
                budget_bytes=options.models_memory,
                stays=stays,
                report=report,
            )
            responses = open_responses(stores)
            pooled = pool_models(plan, models, given.config, responses, stays=stays)
            load_at_start(pooled.pool, which)
        batches = None if stores is None else _add_jobs(stack, pooled, given, stores)
        say_ready = partial(_say_ready, pooled, cpu, given, stores, start_s)
        return run_app(pooled.app, pooled.pool, given.server, say_ready, batches)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A model to serve: its arguments, its names (() is its own) and its adapters."""

    args: EngineArgs
    names: tuple[str, ...]
    lora: LoraOptions


def _with_base(named: NamedModel, lora: LoraOptions, given: Given) -> Wanted:
    """A model, or the base model of an adapter that was given as MODEL."""
    server = replace(given.server, served_model_names=list(named.names))
    model, server, lora = serve_adapter(named.model, server, lora, given.places)
    names = tuple(server.served_model_names)
    return Wanted(args=given.make_args(model), names=names, lora=lora)


@contextlib.contextmanager
def _progress(server: ServerOptions) -> Iterator[OnProgress]:
    """Yields what shows a bar while models load: none with --quiet, nor beside a log in JSON."""
    shows = not server.quiet and server.log_format is LogFormat.TEXT
    with show_progress(Console(stderr=True, quiet=not shows)) as report:
        yield report


def _say_ready(
    pooled: Pooled, cpu: Cpu, given: Given, stores: Stores | None, start_s: float, url: str
) -> None:
    """Says what is served and why, and that it is ready."""
    server, seconds = given.server, round(time.perf_counter() - start_s, 3)
    facts: list[Fact] = []
    if not server.quiet:
        facts = [
            *about_models(pooled.pool, pooled.plan),
            *about_computing(cpu),
            about_fine_tuning(stores),
            *about_memory(),
            *about_address(url, has_key=bool(given.config.api_keys)),
        ]
    name = ", ".join(slot.model.name for slot in pooled.pool.slots)
    if server.log_format is LogFormat.TEXT:
        line = ready_line(name, url, seconds, is_one=False)
        print_ready(Console(stderr=True), facts, line)
    else:
        log_ready(logger, facts, name, url, seconds, is_one=False)


def pool_models(
    plan: MemoryPlan,
    wanted: Sequence[Wanted],
    config: ServerConfig,
    responses: Responses,
    *,
    stays: bool,
) -> Pooled:
    """Makes the pool of several models and its application. Nothing is loaded yet.

    Args:
      plan: the models, and the memory of each.
      wanted: the same models, with their names and adapters.
      config: of the server.
      responses: those of the whole server.
      stays: whether the first model is never unloaded.

    Raises:
      ValueError: two models or adapters have the same name.
    """
    metrics, routes = ServerMetrics(config.metrics_prefix), model_routes(responses)
    models = [
        _served(each, own, config, metrics, routes, stays=stays and index == 0)
        for index, (each, own) in enumerate(zip(plan.models, wanted, strict=True))
    ]
    check_distinct(name for each in models for name in (*each.names, *each.adapters))
    pool = ModelPool(
        models,
        budget_bytes=plan.budget_bytes,
        reclaim=reclaim_memory,
        wait_s=config.request_timeout_s or _LONGEST_WAIT_S,
    )
    can_load = wanted[0].lora.lora_dir is not None
    app = create_pool_app(
        pool,
        config,
        metrics,
        has_adapter_routes=can_load,
        more_routes=routes,
        own_routes=model_free_routes(responses),
    )
    add_description(app, config)
    return Pooled(pool=pool, app=app, plan=plan)


def _served(
    planned: PlannedModel,
    wanted: Wanted,
    config: ServerConfig,
    metrics: ServerMetrics,
    routes: Routes,
    *,
    stays: bool,
) -> ServedModel:
    counters, names, lora = Counters(), wanted.names or (planned.name,), wanted.lora
    own_config = replace(config, served_model_names=names)
    own_metrics = Metrics(counters, names[0], metrics)
    return ServedModel(
        names=names,
        adapters=tuple(name for name, _ in lora.named_paths()),
        root=planned.name,
        max_model_len=planned.cache_plan.max_model_len,
        created=int(time.time()),
        num_bytes=planned.num_bytes,
        stays=stays,
        counters=counters,
        load=partial(load_model, planned, lora, own_config, own_metrics, routes),
    )


def load_at_start(pool: ModelPool, which: LoadAtStart) -> None:
    """Loads the first model, or as many as fit, before the server runs.

    Raises:
      ValueError: all were asked for, and they don't fit at once.
    """
    if which is LoadAtStart.NONE:
        return
    chosen = pool.slots if which is LoadAtStart.ALL else pool.slots[:1]
    needed = sum(slot.model.num_bytes for slot in chosen)
    if needed > pool.budget_bytes:
        raise ValueError(
            f"--load-at-start all needs {needed / 2**20:,.1f} MiB, and the memory for models is "
            f"{pool.budget_bytes / 2**20:,.1f} MiB: raise --models-memory, or leave it out, and "
            "models take turns"
        )
    for slot in chosen:
        pool.load_at_start(slot)


def _add_jobs(
    stack: contextlib.ExitStack, pooled: Pooled, given: Given, stores: Stores
) -> BatchWorker:
    """Lets clients fine-tune the first model, which is in memory and stays there, and send batches
    to all.
    """
    from flaxen.fine_tuning import add_jobs

    first = pooled.pool.slots[0]
    loaded = first.loaded
    assert isinstance(loaded, LoadedModel), "it was loaded at the start"
    own = replace(given.config, served_model_names=first.model.names)
    share = given.fine_tuning.fine_tuning_share
    jobs = add_jobs(pooled.app, own, stores, loaded.engine, loaded.parts, share=share)
    return stack.enter_context(jobs)


def reclaim_memory() -> None:
    """Frees what an unloaded model leaves in cycles, and returns the memory to the system."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    with contextlib.suppress(AttributeError, OSError):  # other C libraries have no such function
        ctypes.CDLL(None).malloc_trim(0)
