"""Responses and chats that are kept in a database: SQLite or PostgreSQL, that of files and jobs.

Deliberately does not know HTTP, nor what either holds beside its id, status and time.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from flaxen.responses_routes.stored import MAX_ID_CHARS, Keeps, StoredResponse, read_stored
from flaxen.server.paging import Page, Paging

_DAYS_KEPT = 30  # as OpenAI keeps them
_DAY_S = 86_400
_CLEAN_EVERY_S = 3_600.0
_READ_AT_ONCE = 64  # rows, of which a list keeps some

_metadata = sa.MetaData()
_responses = sa.Table(
    "flaxen_responses",
    _metadata,
    sa.Column("id", sa.String(MAX_ID_CHARS), primary_key=True),
    sa.Column("created_at", sa.BigInteger, nullable=False, index=True),  # seconds since 1970
    sa.Column("status", sa.String(32), nullable=False, index=True),
    sa.Column("content", sa.Text, nullable=False),  # as StoredResponse.text() writes it
)


class DatabaseStore:
    """Keeps responses for 30 days.

    Responses that were being made when the server was killed have failed when it starts again.

    Args:
      database: the database of one server; its table is made if it is missing.
      prefix: what the ids begin with. Stores with different prefixes share the table.
    """

    def __init__(self, database: sa.Engine, prefix: str = "resp_") -> None:
        self.kept = f"responses of {_DAYS_KEPT} days, in the database"
        self._database = database
        self._prefix = prefix
        # No other id is asked for: PostgreSQL takes no NUL.
        self._id = re.compile(re.escape(prefix) + r"[A-Za-z0-9._:-]+")
        _metadata.create_all(database)
        self._end_interrupted()
        self._clean_at = time.monotonic()

    async def put(self, stored: StoredResponse) -> None:
        """Keeps a response, in place of an earlier form of it."""
        await asyncio.to_thread(self._put, stored)

    async def get(self, response_id: str) -> StoredResponse | None:
        """The response of an id; None if it is not kept."""
        if self._id.fullmatch(response_id) is None:
            return None
        return await asyncio.to_thread(self._get, response_id)

    async def delete(self, response_id: str) -> bool:
        """Forgets a response. Returns whether it was kept."""
        if self._id.fullmatch(response_id) is None:
            return False
        return await asyncio.to_thread(self._delete, response_id)

    async def page(self, paging: Paging, keeps: Keeps) -> Page:
        """A page of what is kept, in the order of creation."""
        return await asyncio.to_thread(self._page, paging, keeps)

    def _put(self, stored: StoredResponse) -> None:
        values = _values(stored)
        change = _responses.update().where(_responses.c.id == stored.id)
        with self._database.begin() as connection:
            if not connection.execute(change.values(**values)).rowcount:
                connection.execute(_responses.insert().values(**values))
            if time.monotonic() >= self._clean_at:
                self._clean_at = time.monotonic() + _CLEAN_EVERY_S
                oldest = int(time.time()) - _DAYS_KEPT * _DAY_S
                connection.execute(_responses.delete().where(_responses.c.created_at < oldest))

    def _get(self, response_id: str) -> StoredResponse | None:
        query = sa.select(_responses.c.content).where(_responses.c.id == response_id)
        with self._database.connect() as connection:
            text = connection.execute(query).scalar()
        return None if text is None else read_stored(text)

    def _delete(self, response_id: str) -> bool:
        with self._database.begin() as connection:
            deleted = connection.execute(_responses.delete().where(_responses.c.id == response_id))
            return bool(deleted.rowcount)

    def _page(self, paging: Paging, keeps: Keeps) -> Page:
        columns = (_responses.c.created_at, _responses.c.id)
        order = [each.desc() if paging.newest_first else each for each in columns]
        ours = _responses.c.id.startswith(self._prefix, autoescape=True)
        query = sa.select(_responses.c.content).where(ours).order_by(*order)
        with self._database.connect() as connection:
            texts = connection.execute(query.execution_options(yield_per=_READ_AT_ONCE)).scalars()
            found = (read_stored(text).response for text in texts)
            return paging.page_of(each for each in found if keeps(each))

    def _end_interrupted(self) -> None:
        running = _responses.c.status.in_(("queued", "in_progress"))
        with self._database.begin() as connection:
            for row in connection.execute(sa.select(_responses).where(running)).all():
                stored = read_stored(row.content)
                error = {"code": "server_error", "message": "the server stopped while it ran"}
                failed = {**stored.response, "status": "failed", "error": error}
                values = _values(StoredResponse(response=failed, items=stored.items))
                connection.execute(
                    _responses.update().where(_responses.c.id == row.id).values(**values)
                )


def _values(stored: StoredResponse) -> Mapping[str, Any]:
    return {
        "id": stored.id,
        "created_at": stored.created_at,
        "status": stored.response.get("status", "completed"),  # a chat that is kept has ended
        "content": stored.text(),
    }
