"""Lists as OpenAI pages them: `after` an id, at most `limit`. Deliberately knows no table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from flaxen.server.errors import ApiError, invalid
from flaxen.server.job_store import Row
from flaxen.server.schema import shorten


@dataclass(frozen=True, kw_only=True)
class Paging:
    """Which part of a list is wanted."""

    after: str | None  # the id of the last object of the page before
    limit: int


def read_paging(http: Request, *, default: int, most: int, others: Collection[str] = ()) -> Paging:
    """Reads `after` and `limit` from a request's query.

    Args:
      default: the limit where none is given.
      most: the largest limit.
      others: further names that the query may have.

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


def page_of(
    rows: Sequence[Row], paging: Paging, to_json: Callable[[Row], dict[str, Any]]
) -> dict[str, Any]:
    """Cuts the page out of all rows.

    Raises:
      ApiError: 404, nothing has the id `after`.
    """
    start = 0
    if paging.after is not None:
        ids = [row["id"] for row in rows]
        if paging.after not in ids:
            raise no_cursor(paging.after)
        start = ids.index(paging.after) + 1
    end = start + paging.limit
    return as_list([to_json(row) for row in rows[start:end]], has_more=end < len(rows))


def no_cursor(after: str) -> ApiError:
    """A 404 for an `after` that names nothing."""
    return ApiError(
        404, f"after={after[:80]!r} is not the id of anything in this list", param="after",
        code="not_found",
    )  # fmt: skip


def as_list(data: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """OpenAI's list object."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }
