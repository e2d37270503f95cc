"""Pages of lists by `after`, `limit` and `order`, as OpenAI's API has them. Knows no list."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen.server.errors import ApiError, invalid
from flaxen.server.schema import must_be

_MAX_DIGITS = 9
Page = tuple[list[dict[str, Any]], bool]  # and whether there are more
_NO_VALUES: Mapping[str, Collection[str]] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Paging:
    """The part of a list that is wanted."""

    after: str | None  # the id of the last one of the page before
    limit: int
    newest_first: bool

    def page_of(self, ordered: Iterable[Mapping[str, Any]]) -> Page:
        """A page of a list that is in its order already.

        Raises:
          ApiError: 404, nothing has the id `after`.
        """
        items = iter(ordered)
        if self.after is not None and all(each["id"] != self.after for each in items):
            raise unknown_after(self.after)
        page = [dict(each) for each in itertools.islice(items, self.limit)]
        return page, next(items, None) is not None


def read_paging(
    http: HttpRequest,
    *,
    default: int = 20,
    most: int = 100,
    order: str | None = None,
    others: Collection[str] = (),
    values: Mapping[str, Collection[str]] = _NO_VALUES,
) -> Paging:
    """Reads a request's query.

    Args:
      http: the request.
      default: the limit, if the request has none.
      most: the largest limit.
      order: "asc" or "desc", if the request has none; None: the newest are first in any case.
      others: further parameters that the query may have.
      values: further parameters that it may have with these values.

    Raises:
      ApiError: 400, a value is out of its range or a name is unknown.
    """
    ordering = () if order is None else ("order",)
    check_query(http, ("after", "limit", *ordering, *others), values)
    asked = http.query_params.get("order", order or "desc")
    if asked not in ("asc", "desc"):
        raise must_be("order", "'asc' or 'desc'", asked)
    limit = whole(http, "limit", high=most)
    return Paging(
        after=http.query_params.get("after"),
        limit=default if limit is None else limit,
        newest_first=asked == "desc",
    )


def check_query(
    http: HttpRequest, names: Collection[str], values: Mapping[str, Collection[str]] = _NO_VALUES
) -> None:
    """Refuses parameters that are not among `names`, nor in `values` with one of their values.

    Raises:
      ApiError: 400, there is such a parameter.
    """
    for name, value in http.query_params.multi_items():
        if name not in names and value not in values.get(name, ()):
            shown = f"{name}={value}"[:80]
            raise invalid(f"unknown parameter {shown!r}", name[:80], "unknown_parameter")


def whole(http: HttpRequest, name: str, *, high: int = 10**_MAX_DIGITS) -> int | None:
    """A parameter that is a whole number from 0 to `high`; None if it is not there.

    Raises:
      ApiError: 400, it is none.
    """
    value = http.query_params.get(name)
    if value is None:
        return None
    is_number = value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS
    if not is_number or int(value) > high:
        raise must_be(name, f"a whole number from 0 to {high}", value)
    return int(value)


def list_json(page: Page) -> Response:
    """The answer with a page."""
    items, has_more = page
    return JSONResponse(
        {
            "object": "list",
            "data": items,
            "first_id": items[0]["id"] if items else "",  # a string in OpenAI's schema
            "last_id": items[-1]["id"] if items else "",
            "has_more": has_more,
        }
    )


def unknown_after(after: str) -> ApiError:
    """A 404: nothing of the list has the id `after`."""
    message = f"after={after[:80]!r} is not the id of anything in this list"
    return ApiError(404, message, param="after", code="not_found")
