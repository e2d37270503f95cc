"""The routes of /v1/batches, as in OpenAI's API. Deliberately does not run batches."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flaxen.job_routes.batches.context import Batches
from flaxen.job_routes.paging import as_page
from flaxen.job_routes.storage.names import new_batch_name
from flaxen.job_routes.storage.pages import Row, UnknownIdError
from flaxen.server.body import read_json
from flaxen.server.config import ServerConfig
from flaxen.server.errors import ApiError, invalid, not_found
from flaxen.server.paging import read_paging
from flaxen.server.schema import Metadata, StrictBody, must_be, parse, shorten

logger = logging.getLogger("flaxen.server")

PURPOSE = "batch"
_WINDOW = "24h"
_TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


class BatchBody(StrictBody):
    """The fields of POST /v1/batches."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: Metadata | None = None


async def create(context: Batches, config: ServerConfig, http: Request) -> Response:
    """Answers POST /v1/batches."""
    body = parse(BatchBody, await read_json(http, config, context.bodies))
    if body.endpoint not in context.endpoints:
        raise must_be("endpoint", " or ".join(context.endpoints), body.endpoint)
    if body.completion_window != _WINDOW:
        raise must_be("completion_window", f"{_WINDOW!r}", body.completion_window)
    created = int(time.time())
    values = {
        "id": new_batch_name(),
        "created_at": created,
        "expires_at": created + context.config.lifetime_s,
        "endpoint": body.endpoint,
        "input_file": body.input_file_id,
        "metadata": body.metadata,
    }
    async with context.changing_files:
        await _check_file(context, body.input_file_id)
        add = functools.partial(context.store.add, values, max_active=context.config.max_active)
        row = await asyncio.to_thread(add)
    if row is None:
        raise ApiError(
            429,
            f"{context.config.max_active} batches wait or run, the most this server takes: cancel "
            "one or wait for its end",
            code="too_many_batches",
            type="rate_limit_error",
        )
    _log(row, http)
    context.on_change()
    return JSONResponse(batch_json(row))


async def list_batches(context: Batches, config: ServerConfig, http: Request) -> Response:
    """Answers GET /v1/batches."""
    paging = read_paging(http)
    read = functools.partial(context.store.list, paging.after, paging.limit)
    return await as_page(read, batch_json)


async def retrieve(context: Batches, config: ServerConfig, http: Request) -> Response:
    """Answers GET /v1/batches/{batch_id}."""
    return JSONResponse(batch_json(await _find(context, http)))


async def cancel(context: Batches, config: ServerConfig, http: Request) -> Response:
    """Answers POST /v1/batches/{batch_id}/cancel: what was answered so far is kept."""
    row = await _find(context, http)
    of = ("validating", "in_progress")
    change = functools.partial(context.store.change_status, row["id"], "cancelling", of=of)
    is_changed = await asyncio.to_thread(change)
    row = await _find(context, http)
    if not is_changed:
        raise invalid(
            f"the batch is {row['status']}: only one that is {' or '.join(of)} can be cancelled",
            code="invalid_status",
        )
    _log(row, http)
    context.on_change()
    return JSONResponse(batch_json(row))


def batch_json(row: Row) -> dict[str, Any]:
    """OpenAI's `batch`."""
    times = {f"{status}_at": row["changed_at"].get(status) for status in _TIMES}
    errors = row["errors"]
    return {
        "id": row["id"],
        "object": "batch",
        "endpoint": row["endpoint"],
        "errors": None if errors is None else {"object": "list", "data": errors},
        "input_file_id": row["input_file"],
        "completion_window": _WINDOW,
        "status": row["status"],
        "output_file_id": row["output_file"],
        "error_file_id": row["error_file"],
        "created_at": row["created_at"],
        "expires_at": row["expires_at"],
        **times,
        "request_counts": {
            "total": row["num_requests"],
            "completed": row["num_completed"],
            "failed": row["num_failed"],
        },
        "metadata": row["metadata"],
    }


async def _check_file(context: Batches, file_id: str) -> None:
    try:
        row = await asyncio.to_thread(context.files.get, file_id)
    except UnknownIdError:
        raise not_found("file", file_id, "input_file_id") from None
    if row["purpose"] != PURPOSE:
        raise invalid(
            f"the file {file_id} was uploaded for {shorten(row['purpose'])}: upload it with "
            f"purpose={PURPOSE!r}",
            "input_file_id",
        )


async def _find(context: Batches, http: Request) -> Row:
    batch_id = http.path_params["batch_id"]
    try:
        return await asyncio.to_thread(context.store.get, batch_id)
    except UnknownIdError:
        raise not_found("batch", batch_id) from None


def _log(row: Row, http: Request) -> None:
    logger.info(
        "batch %(batch_id)s is %(batch_status)s",
        {"batch_id": row["id"], "batch_status": row["status"]},
        extra={"endpoint": row["endpoint"], "request_id": http.state.request_id},
    )
