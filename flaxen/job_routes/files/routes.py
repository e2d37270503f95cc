"""The routes of /v1/files, as in OpenAI's API. Deliberately does not know the contents of files."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from flaxen.job_routes.files.context import Files
from flaxen.job_routes.files.store import DiskFullError, FileTooLargeError, StorageFullError
from flaxen.job_routes.files.upload import read_form, too_large
from flaxen.job_routes.paging import as_page
from flaxen.job_routes.storage.pages import Row, UnknownIdError
from flaxen.server.errors import ApiError, invalid, not_found
from flaxen.server.paging import read_paging
from flaxen.server.schema import must_be

# Jobs and batches read files of the first two; the others, which OpenAI has too, are only kept.
PURPOSES = ("fine-tune", "batch", "assistants", "user_data", "vision")
_FIELDS = ("file", "purpose")


async def create(context: Files, http: Request) -> Response:
    """Answers POST /v1/files."""
    try:
        return await _create(context, http)
    except DiskFullError as error:
        raise ApiError(
            507,
            str(error),
            param="file",
            code="disk_full",
            type="server_error",
            headers={"x-should-retry": "false"},  # the official client reads this header
            cause=error,
        ) from None


async def _create(context: Files, http: Request) -> Response:
    config = context.config
    with await asyncio.to_thread(context.store.create) as writer:
        try:
            form = await read_form(
                http, writer, max_bytes=config.max_file_bytes, idle_s=config.upload_idle_s
            )
        except FileTooLargeError:
            raise too_large(config.max_file_bytes) from None
        except StorageFullError as error:
            raise ApiError(413, str(error), param="file", code="storage_full") from None
        for name in form.fields:
            if name not in _FIELDS:
                raise invalid(
                    f"unknown field {name[:80]!r}: an upload has {' and '.join(_FIELDS)}; files "
                    "are kept until they are deleted",
                    name[:80],
                    "unknown_parameter",
                )
        if form.filename is None:
            raise invalid("the field 'file' is required", "file", code="missing_required_parameter")
        purpose = form.fields.get("purpose")
        if purpose is None:
            raise invalid(
                "the field 'purpose' is required", "purpose", code="missing_required_parameter"
            )
        if purpose not in PURPOSES:
            raise must_be("purpose", f"one of {', '.join(PURPOSES)}", purpose)
        row = await asyncio.to_thread(writer.commit, form.filename, purpose)
    return JSONResponse(_file(row))


async def list_files(context: Files, http: Request) -> Response:
    """Answers GET /v1/files."""
    paging = read_paging(http, default=10_000, most=10_000, order="desc", others=("purpose",))
    read = functools.partial(
        context.store.list,
        http.query_params.get("purpose"),
        after=paging.after,
        limit=paging.limit,
        newest_first=paging.newest_first,
    )
    return await as_page(read, _file)


async def retrieve(context: Files, http: Request) -> Response:
    """Answers GET /v1/files/{file_id}."""
    return JSONResponse(_file(await _find(context, http)))


async def content(context: Files, http: Request) -> Response:
    """Answers GET /v1/files/{file_id}/content."""
    row = await _find(context, http)
    path = await asyncio.to_thread(context.store.path, row["id"])
    if not path.is_file():
        raise ApiError(
            404,
            f"the bytes of the file {row['id']} are gone from the server's disk: upload it again",
            param="id",
            code="not_found",
            cause=f"the bytes of the file {row['id']} are gone: {path}",
        )
    # A client's own bytes: a browser must never show them as a page.
    return FileResponse(
        path, media_type="application/octet-stream", headers={"x-content-type-options": "nosniff"}
    )


async def delete(context: Files, http: Request) -> Response:
    """Answers DELETE /v1/files/{file_id}; a file that an active job needs is kept."""
    row = await _find(context, http)
    async with context.changing:
        user = await asyncio.to_thread(context.user_of, row["id"])
        if user is not None:
            raise ApiError(
                409,
                f"the file is needed by {user}: cancel that first, or wait for its end",
                code="file_in_use",
            )
        try:
            await asyncio.to_thread(context.store.delete, row["id"])
        except UnknownIdError:
            raise not_found("file", row["id"]) from None
    return JSONResponse({"id": row["id"], "object": "file", "deleted": True})


async def _find(context: Files, http: Request) -> Row:
    file_id = http.path_params["file_id"]
    try:
        return await asyncio.to_thread(context.store.get, file_id)
    except UnknownIdError:
        raise not_found("file", file_id) from None


def _file(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "object": "file",
        "bytes": row["bytes"],
        "created_at": row["created_at"],
        "filename": row["filename"],
        "purpose": row["purpose"],
        "status": "processed",
    }
