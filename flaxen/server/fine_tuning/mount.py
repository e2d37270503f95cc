"""Adds the routes of files and fine-tuning to an application. Deliberately does nothing they do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from flaxen.server.config import ServerConfig
from flaxen.server.files import routes as files
from flaxen.server.fine_tuning import models_routes as models
from flaxen.server.fine_tuning import routes as fine_tuning
from flaxen.server.fine_tuning.context import FineTuning

_FILES: dict[tuple[str, str], Callable[[FineTuning, Request], Awaitable[Response]]] = {
    ("POST", "/v1/files"): files.create,
    ("GET", "/v1/files"): files.list_files,
    ("GET", "/v1/files/{file_id}"): files.retrieve,
    ("GET", "/v1/files/{file_id}/content"): files.content,
    ("DELETE", "/v1/files/{file_id}"): files.delete,
}
_JOB = "/v1/fine_tuning/jobs/{job_id}"
_JOBS: dict[tuple[str, str], Callable[[FineTuning, ServerConfig, Request], Awaitable[Response]]] = {
    ("POST", "/v1/fine_tuning/jobs"): fine_tuning.create,
    ("GET", "/v1/fine_tuning/jobs"): fine_tuning.list_jobs,
    ("GET", _JOB): fine_tuning.retrieve,
    ("POST", f"{_JOB}/cancel"): fine_tuning.cancel,
    ("POST", f"{_JOB}/pause"): fine_tuning.pause,
    ("POST", f"{_JOB}/resume"): fine_tuning.resume,
    ("GET", f"{_JOB}/events"): fine_tuning.list_events,
    ("GET", f"{_JOB}/checkpoints"): fine_tuning.list_checkpoints,
    ("DELETE", "/v1/models/{name:path}"): models.delete,
    # Behind the route of the same name that is there where clients may load adapters.
    ("POST", "/v1/unload_lora_adapter"): models.unload,
}


def add_fine_tuning(app: FastAPI, context: FineTuning, config: ServerConfig) -> None:
    """Lets an application of `create_app` answer the routes of files and fine-tuning."""
    for (method, path), handler in _FILES.items():
        app.add_api_route(
            path, _bind_files(handler, context), methods=[method], response_model=None
        )
    for (method, path), job_handler in _JOBS.items():
        endpoint = _bind_jobs(job_handler, context, config)
        app.add_api_route(path, endpoint, methods=[method], response_model=None)


def _bind_files(
    handler: Callable[[FineTuning, Request], Awaitable[Response]], context: FineTuning
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(http: Request) -> Response:
        return await handler(context, http)

    return endpoint


def _bind_jobs(
    handler: Callable[[FineTuning, ServerConfig, Request], Awaitable[Response]],
    context: FineTuning,
    config: ServerConfig,
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(http: Request) -> Response:
        return await handler(context, config, http)

    return endpoint
