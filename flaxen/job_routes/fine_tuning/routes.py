"""The routes of /v1/fine_tuning/jobs, as in OpenAI's API. Deliberately does not run jobs."""

from __future__ import annotations

import asyncio
import functools
import logging
import secrets
from collections.abc import Callable, Collection, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flaxen.job_routes.fine_tuning.context import FineTuning
from flaxen.job_routes.fine_tuning.job_json import checkpoint_json, event_json, job_json
from flaxen.job_routes.fine_tuning.job_schema import MAX_SEED, JobRequest, read_job
from flaxen.job_routes.paging import as_page
from flaxen.job_routes.storage.names import new_job_name
from flaxen.job_routes.storage.pages import Row, UnknownIdError
from flaxen.server.body import read_json
from flaxen.server.config import ServerConfig
from flaxen.server.errors import ApiError, invalid, not_found
from flaxen.server.paging import Paging, read_paging
from flaxen.server.schema import shorten

logger = logging.getLogger("flaxen.server")


async def create(context: FineTuning, config: ServerConfig, http: Request) -> Response:
    """Answers POST /v1/fine_tuning/jobs."""
    fields = await read_json(http, config, context.bodies)
    asked = read_job(fields, max_lora_rank=context.config.max_lora_rank)
    if asked.model not in context.base_models:
        raise ApiError(
            404,
            f"the model {asked.model[:80]!r} can't be fine-tuned here: use "
            f"{' or '.join(context.base_models)}",
            param="model",
            code="model_not_found",
        )
    async with context.changing_files:
        for param in ("training_file", "validation_file"):
            file_id = getattr(asked, param)
            if file_id is not None:
                await _check_file(context, file_id, param)
        row = await asyncio.to_thread(
            context.jobs.add, _values(asked), max_active=context.config.max_active_jobs
        )
    if row is None:
        raise ApiError(
            429,
            f"{context.config.max_active_jobs} fine-tuning jobs wait or run, the most this server "
            "takes: cancel one or wait for its end",
            code="too_many_jobs",
            type="rate_limit_error",
        )
    logger.info(
        "fine-tuning job %(job_id)s was created; its files are validated",
        {"job_id": row["id"]},
        extra={
            "model": row["model"],
            "method": row["method"],
            "training_file": row["training_file"],
            "request_id": http.state.request_id,
        },
    )
    context.on_change()
    return JSONResponse(job_json(row))


async def list_jobs(context: FineTuning, config: ServerConfig, http: Request) -> Response:
    """Answers GET /v1/fine_tuning/jobs."""
    wanted = {
        name: value
        for name, value in http.query_params.items()
        if name == "metadata" or (name.startswith("metadata[") and name.endswith("]"))
    }
    paging = read_paging(http, others=wanted)
    if "metadata" in wanted and (wanted["metadata"] != "null" or len(wanted) > 1):
        raise invalid("metadata must be given as metadata[KEY]=VALUE, or alone as null", "metadata")
    keeps = (lambda row: _matches(row, wanted)) if wanted else None
    read = functools.partial(context.jobs.list, after=paging.after, limit=paging.limit, keeps=keeps)
    return await as_page(read, job_json)


async def retrieve(context: FineTuning, config: ServerConfig, http: Request) -> Response:
    """Answers GET /v1/fine_tuning/jobs/{job_id}."""
    return JSONResponse(job_json(await _find(context, http)))


async def cancel(context: FineTuning, config: ServerConfig, http: Request) -> Response:
    """Answers POST /v1/fine_tuning/jobs/{job_id}/cancel."""
    of = ("validating_files", "queued", "running", "paused")
    return await _change_status(context, http, "cancelled", of, "The job has been cancelled")


async def pause(context: FineTuning, config: ServerConfig, http: Request) -> Response:
    """Answers POST /v1/fine_tuning/jobs/{job_id}/pause."""
    return await _change_status(
        context, http, "paused", ("queued", "running"), "The job has been paused"
    )


async def resume(context: FineTuning, config: ServerConfig, http: Request) -> Response:
    """Answers POST /v1/fine_tuning/jobs/{job_id}/resume."""
    return await _change_status(context, http, "queued", ("paused",), "The job has been resumed")


async def list_events(context: FineTuning, config: ServerConfig, http: Request) -> Response:
    """Answers GET /v1/fine_tuning/jobs/{job_id}/events."""
    return await _list(context, http, context.jobs.events, event_json, default=20)


async def list_checkpoints(context: FineTuning, config: ServerConfig, http: Request) -> Response:
    """Answers GET /v1/fine_tuning/jobs/{job_id}/checkpoints."""
    return await _list(context, http, context.jobs.checkpoints, checkpoint_json, default=10)


async def _check_file(context: FineTuning, file_id: str, param: str) -> None:
    try:
        row = await asyncio.to_thread(context.files.get, file_id)
    except UnknownIdError:
        raise not_found("file", file_id, param) from None
    if not row["bytes"]:
        raise invalid(f"the file {file_id} is empty", param, "invalid_file")


def _values(asked: JobRequest) -> dict[str, Any]:
    job_id = new_job_name()
    return {
        "id": job_id,
        "model": asked.model,
        "model_name": f"ft:{asked.model}:{asked.suffix}:{job_id[-8:]}",
        "training_file": asked.training_file,
        "validation_file": asked.validation_file,
        "method": asked.method,
        "hyperparameters": asked.hyperparameters,
        "lora": asked.lora,
        "seed": secrets.randbelow(MAX_SEED) if asked.seed is None else asked.seed,
        "metadata": asked.metadata,
    }


def _matches(row: Row, wanted: dict[str, str]) -> bool:
    if "metadata" in wanted:
        return row["metadata"] is None
    has = row["metadata"] or {}
    return all(
        has.get(name.removeprefix("metadata[")[:-1]) == value for name, value in wanted.items()
    )


async def _find(context: FineTuning, http: Request) -> Row:
    job_id = http.path_params["job_id"]
    try:
        return await asyncio.to_thread(context.jobs.get, job_id)
    except UnknownIdError:
        raise not_found("fine-tuning job", job_id) from None


async def _change_status(
    context: FineTuning, http: Request, status: str, of: Collection[str], message: str
) -> Response:
    """Changes the job's status. The trainer sees it between two steps, and stops or continues."""
    job_id = (await _find(context, http))["id"]
    change = functools.partial(context.jobs.change_status, of=of, messages=[message])
    while not await asyncio.to_thread(change, job_id, status):
        row = await _find(context, http)
        if row["status"] not in of:  # else it has become one that may change just now
            raise invalid(
                f"the job is {row['status']}: only a job that is {' or '.join(of)} becomes "
                f"{shorten(status)}",
                code="invalid_status",
            )
    row = await _find(context, http)
    logger.info(
        "fine-tuning job %(job_id)s is %(job_status)s",
        {"job_id": row["id"], "job_status": row["status"]},
        extra={"request_id": http.state.request_id},
    )
    context.on_change()
    return JSONResponse(job_json(row))


async def _list(
    context: FineTuning,
    http: Request,
    read: Callable[[str, str | None, int], tuple[Sequence[Row], bool]],
    to_json: Callable[[Row], dict[str, Any]],
    *,
    default: int,
) -> Response:
    paging: Paging = read_paging(http, default=default, most=1000)
    job = await _find(context, http)
    return await as_page(functools.partial(read, job["id"], paging.after, paging.limit), to_json)
