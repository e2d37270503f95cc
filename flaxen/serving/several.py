"""Serves several models: plans their memory, loads those of the start, and runs the pool.

Deliberately does not know how memory is divided, nor when a model is loaded or unloaded.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from flaxen.api_description.routes import add_description
from flaxen.model_pool.app import create_pool_app
from flaxen.model_pool.counters import Counters
from flaxen.model_pool.pool import ModelPool
from flaxen.model_pool.served_model import ServedModel
from flaxen.responses_routes.responses import Responses
from flaxen.responses_routes.routes import model_free_routes
from flaxen.server.app import Routes
from flaxen.server.config import ServerConfig
from flaxen.server.metrics import Metrics, ServerMetrics
from flaxen.serving.announcement.facts import about_address, about_fine_tuning, about_memory
from flaxen.serving.announcement.models import about_models
from flaxen.serving.announcement.ready import say_ready
from flaxen.serving.fact import Fact
from flaxen.serving.load_at_start import LoadAtStart, load_at_start
from flaxen.serving.loaded_model import LoadedModel, load_model
from flaxen.serving.more_routes import model_routes, open_responses
from flaxen.serving.planned_models import MemoryPlan, PlannedModel, Wanted, plan_models
from flaxen.serving.reclaim import reclaim_memory
from flaxen.serving.router import add_router
from flaxen.serving.running import run_app
from flaxen.serving.server_args import ServerArgs

if TYPE_CHECKING:
    from fastapi import FastAPI

    from flaxen.job_routes.batches.batch_worker import BatchWorker
    from flaxen.job_routes.stores import Stores

_LONGEST_WAIT_S = 3600.0  # for a model, where requests have no limit of their own


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """A pool, its application, and what it was planned with."""

    pool: ModelPool
    app: FastAPI
    plan: MemoryPlan


def serve_several(
    wanted: Sequence[Wanted], server: ServerArgs, *, memory_bytes: int | None, which: LoadAtStart
) -> int:
    """Serves several models until a signal. Returns the exit code.

    Args:
      wanted: the models. Clients load adapters for the first, and fine-tune it: where they may, it
          stays in memory.
      server: the server's arguments.
      memory_bytes: the memory for all models that are loaded at the same time; None chooses it.
      which: those that are loaded before the server answers.

    Raises:
      ValueError: a model, an adapter or an option can't be served, or the memory is too small.
    """
    stays = server.stores is not None or wanted[0].adapters.directory is not None
    with contextlib.ExitStack() as stack:
        stores = stack.enter_context(server.open_stores())
        computing = server.set_up()
        start_s = time.perf_counter()
        with server.progress() as report:
            plan = plan_models(wanted, budget_bytes=memory_bytes, stays=stays, report=report)
            pooled = pool_models(plan, server.config, open_responses(stores), stays=stays)
            slots = pooled.pool.slots
            served = (name for slot in slots for name in (*slot.model.names, *slot.adapters))
            beside = add_router(stack, pooled.app, server, served)
            load_at_start(pooled.pool, which)
        batches = None if stores is None else _add_jobs(stack, pooled, server, stores)
        names = ", ".join(slot.model.name for slot in slots)
        facts = partial(_about, pooled, computing, server, stores)
        on_ready = partial(say_ready, server, start_s, names, facts, is_one=False)
        return run_app(pooled.app, pooled.pool, server, on_ready, batches, beside)


def _about(
    pooled: Pooled, computing: Sequence[Fact], server: ServerArgs, stores: Stores | None, url: str
) -> Iterator[Fact]:
    """All facts about a server of several models that listens on a URL."""
    yield from about_models(pooled.pool, pooled.plan)
    yield from computing
    yield about_fine_tuning(stores)
    yield from about_memory()
    yield from about_address(url, has_key=bool(server.config.api_keys))


def pool_models(
    plan: MemoryPlan, config: ServerConfig, responses: Responses, *, stays: bool
) -> Pooled:
    """Makes the pool of several models and its application. Nothing is loaded yet.

    Args:
      plan: the models, and the memory of each.
      config: of the server.
      responses: those of the whole server.
      stays: whether the first model is never unloaded.

    Raises:
      ValueError: two models or adapters have the same name.
    """
    metrics, routes = ServerMetrics(config.metrics_prefix), model_routes(responses)
    models = [
        _served(each, config, metrics, routes, stays=stays and index == 0)
        for index, each in enumerate(plan.models)
    ]
    check_distinct(name for each in models for name in (*each.names, *each.adapters))
    pool = ModelPool(
        models,
        budget_bytes=plan.budget_bytes,
        reclaim=reclaim_memory,
        wait_s=config.request_timeout_s or _LONGEST_WAIT_S,
    )
    can_load = plan.models[0].wanted.adapters.directory is not None
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
    config: ServerConfig,
    metrics: ServerMetrics,
    routes: Routes,
    *,
    stays: bool,
) -> ServedModel:
    counters, names = Counters(), planned.wanted.names or (planned.name,)
    own_config = replace(config, served_model_names=names)
    own_metrics = Metrics(counters, names[0], metrics)
    return ServedModel(
        names=names,
        adapters=tuple(name for name, _ in planned.wanted.adapters.at_start),
        root=planned.name,
        max_model_len=planned.cache_plan.max_model_len,
        created=int(time.time()),
        num_bytes=planned.num_bytes,
        stays=stays,
        counters=counters,
        load=partial(load_model, planned, own_config, own_metrics, routes),
    )


def check_distinct(names: Iterable[str]) -> None:
    """Refuses models and adapters of which two have the same name.

    Raises:
      ValueError: a name is there twice.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"two models or adapters would be called {twice[0]!r}: name one of them otherwise, as "
            "NAME=MODEL"
        )


def _add_jobs(
    stack: contextlib.ExitStack, pooled: Pooled, server: ServerArgs, stores: Stores
) -> BatchWorker:
    """Lets clients fine-tune the first model, which is in memory and stays there, and send batches
    to all.
    """
    from flaxen.serving.jobs import add_jobs

    first = pooled.pool.slots[0]
    loaded = first.loaded
    assert isinstance(loaded, LoadedModel), "it was loaded at the start"
    own = replace(server.config, served_model_names=first.model.names)
    share = server.fine_tuning_share
    jobs = add_jobs(pooled.app, own, stores, loaded.engine, loaded.parts, share=share)
    return stack.enter_context(jobs)
