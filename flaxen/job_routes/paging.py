"""Pages of lists as in OpenAI's API, by `after` and `limit`. Deliberately knows no table."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flaxen.job_routes.storage.pages import Row, UnknownIdError
from flaxen.server.errors import ApiError, invalid
from flaxen.server.schema import shorten


@dataclass(frozen=True, kw_only=True)
class Paging:
    """The requested part of a list."""

    after: str | None  # the id of the previous page's last object
    limit: int


def read_paging(http: Request, *, default: int, most: int, others: Collection[str] = ()) -> Paging:
    """Reads `after` and `limit` from a request's query.

    Args:
      default: the limit if the request has none.
      most: the largest limit.
      others: further parameters that the query may have.

    Raises:
      ApiError: 400, a value is out of its range or a name is unknown.
    """
    for name in http.query_params:
        if name not in ("after", "limit", *others):
            raise invalid(f"unknown parameter {name[:80]!r}", name[:80], "unknown_parameter")
    limit = http.query_params.get("limit", str(default))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 7 and 1 <= int(limit) <= most):
        raise invalid(
            f"limit must be a whole number from 1 to {most}, got {shorten(limit)}", "limit"
        )
    return Paging(after=http.query_params.get("after"), limit=int(limit))


async def as_page(
    read: Callable[[], tuple[Sequence[Row], bool]], to_json: Callable[[Row], dict[str, Any]]
) -> Response:
    """Makes OpenAI's list object from a page of rows.

    Args:
      read: returns the rows and whether there are more, or raises UnknownIdError; runs in a thread.

    Raises:
      ApiError: 404, no object in the list has the id `after`.
    """
    try:
        rows, has_more = await asyncio.to_thread(read)
    except UnknownIdError as error:
        raise ApiError(
            404,
            f"after={error.row_id[:80]!r} is not the id of anything in this list",
            param="after",
            code="not_found",
        ) from None
    return JSONResponse(
        {
            "object": "list",
            "data": [to_json(row) for row in rows],
            "first_id": rows[0]["id"] if rows else "",  # a string in OpenAI's schema
            "last_id": rows[-1]["id"] if rows else "",
            "has_more": has_more,
        }
    )
