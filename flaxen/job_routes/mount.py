"""Adds the routes of files and fine-tuning to an application, and joins the two rooms.

Contains no logic of a route.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

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


def mount_fine_tuning(
    app: FastAPI,
    config: ServerConfig,
    stores: Stores,
    models: FineTunedModels,
    *,
    base_models: tuple[str, ...],
    on_change: Callable[[], None],
) -> None:
    """Adds the routes of files and fine-tuning to an application of `create_app`.

    Args:
      app: the application.
      config: the server's limits.
      stores: the files and jobs.
      models: the models that jobs made.
      base_models: the names of the model that jobs may adapt.
      on_change: called after a job was created or changed its status.
    """
    changing_files = asyncio.Lock()
    uploaded = Files(
        config=stores.config.files,
        store=stores.files,
        job_that_needs=stores.jobs.uses_file,
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
    for (method, path), handler in _FILES.items():
        add_route(app, method, path, functools.partial(handler, uploaded))
    for (method, path), job_handler in _JOBS.items():
        add_route(app, method, path, functools.partial(job_handler, fine_tuning, config))
