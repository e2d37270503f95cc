"""Answers with pages of rows, as OpenAI's API has them. Deliberately knows no table."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from starlette.responses import Response

from flaxen.job_routes.storage.pages import Row, UnknownIdError
from flaxen.server.paging import list_json, unknown_after


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
        raise unknown_after(error.row_id) from None
    return list_json(([to_json(row) for row in rows], has_more))
