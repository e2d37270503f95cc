"""Adds the routes of files, fine-tuning and batches to an application, and joins these rooms.

Contains no logic of a route.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flaxen.job_routes.batches import routes as batches
from flaxen.job_routes.batches.batch_lines import ENDPOINTS
from flaxen.job_routes.batches.context import Batches
from flaxen.job_routes.files import routes as files
from flaxen.job_routes.files.context import Files
from flaxen.job_routes.fine_tuning import routes, tuned_models_routes
from flaxen.job_routes.fine_tuning.context import FineTuning
from flaxen.job_routes.fine_tuning.tuned_models import FineTunedModels
from flaxen.job_routes.stores import Stores
from flaxen.server.config import ServerConfig
from flaxen.server.routing import add_route

_FILES: dict[tuple[str, str], Callable[[Files, Request], Awaitable[Response]]] = {
    ("POST", "/v1/files"): files.create,
    ("GET", "/v1/files"): files.list_files,
    ("GET", "/v1/files/{file_id}"): files.retrieve,
    ("GET", "/v1/files/{file_id}/content"): files.content,
    ("DELETE", "/v1/files/{file_id}"): files.delete,
}
_JOB = "/v1/fine_tuning/jobs/{job_id}"
_JOBS: dict[tuple[str, str], Callable[[FineTuning, ServerConfig, Request], Awaitable[Response]]] = {
    ("POST", "/v1/fine_tuning/jobs"): routes.create,
    ("GET", "/v1/fine_tuning/jobs"): routes.list_jobs,
    ("GET", _JOB): routes.retrieve,
    ("POST", f"{_JOB}/cancel"): routes.cancel,
    ("POST", f"{_JOB}/pause"): routes.pause,
    ("POST", f"{_JOB}/resume"): routes.resume,
    ("GET", f"{_JOB}/events"): routes.list_events,
    ("GET", f"{_JOB}/checkpoints"): routes.list_checkpoints,
    ("DELETE", "/v1/models/{name:path}"): tuned_models_routes.delete,
    # After the route of the same name, which exists if clients may load adapters.
    ("POST", "/v1/unload_lora_adapter"): tuned_models_routes.unload,
}
_BATCH = "/v1/batches/{batch_id}"
_BATCHES: dict[tuple[str, str], Callable[[Batches, ServerConfig, Request], Awaitable[Response]]] = {
    ("POST", "/v1/batches"): batches.create,
    ("GET", "/v1/batches"): batches.list_batches,
    ("GET", _BATCH): batches.retrieve,
    ("POST", f"{_BATCH}/cancel"): batches.cancel,
}


def mount_jobs(
    app: FastAPI,
    config: ServerConfig,
    stores: Stores,
    models: FineTunedModels,
    *,
    base_models: tuple[str, ...],
    on_change: Callable[[], None],
    on_batch: Callable[[], None],
) -> None:
    """Adds the routes of files, fine-tuning and batches to an application of `create_app`.

    Args:
      app: the application.
      config: the server's limits.
      stores: the files and jobs.
      models: the models that jobs made.
      base_models: the names of the model that jobs may adapt.
      on_change: called after a job was created or changed its status.
      on_batch: called after a batch was created or cancelled.
    """
    changing_files = asyncio.Lock()
    uploaded = Files(
        config=stores.config.files,
        store=stores.files,
        user_of=functools.partial(_user_of, stores),
        changing=changing_files,
    )
    fine_tuning = FineTuning(
        config=stores.config.fine_tuning,
        files=stores.files,
        jobs=stores.jobs,
        models=models,
        base_models=base_models,
        on_change=on_change,
        changing_files=changing_files,
    )
    there = {route.path for route in app.routes if isinstance(route, Route)}
    batched = Batches(
        config=stores.config.batches,
        store=stores.batches,
        files=stores.files,
        endpoints=tuple(path for path in ENDPOINTS if path in there),
        on_change=on_batch,
        changing_files=changing_files,
    )
    for (method, path), handler in _FILES.items():
        add_route(app, method, path, functools.partial(handler, uploaded))
    for (method, path), job_handler in _JOBS.items():
        add_route(app, method, path, functools.partial(job_handler, fine_tuning, config))
    for (method, path), batch_handler in _BATCHES.items():
        add_route(app, method, path, functools.partial(batch_handler, batched, config))


def _user_of(stores: Stores, file_id: str) -> str | None:
    """What needs a file and has not ended; None if nothing does."""
    if (job_id := stores.jobs.uses_file(file_id)) is not None:
        return f"the fine-tuning job {job_id}"
    batch_id = stores.batches.uses_file(file_id)
    return None if batch_id is None else f"the batch {batch_id}"
