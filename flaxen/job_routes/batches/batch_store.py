"""Batches and the answers of those that have not ended, in a database.

Each change is one transaction, and one server at a time uses a database. Deliberately does not know
HTTP, files, or how a request is answered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from flaxen.job_routes.storage.pages import Row, first_of, page_of, row_of
from flaxen.job_routes.storage.tables import batch_results, batches

ACTIVE = ("validating", "in_progress", "finalizing", "cancelling")
_AT_ONCE = 500  # results that are read at once


class BatchStore:
    """Safe to use from several threads."""

    def __init__(self, database: sa.Engine) -> None:
        self._database = database
        self._writing = threading.Lock()

    def add(self, values: Mapping[str, Any], *, max_active: int) -> Row | None:
        """Stores a new batch with status validating. Returns it, or None if too many are active."""
        active = sa.select(sa.func.count()).where(batches.c.status.in_(ACTIVE))
        with self._writing, self._database.begin() as connection:
            if connection.execute(active).scalar_one() >= max_active:
                return None
            row = {**values, "status": "validating", "changed_at": {}}
            connection.execute(batches.insert().values(**row))
        return self.get(values["id"])

    def get(self, batch_id: str) -> Row:
        """Returns a batch.

        Raises:
          UnknownIdError: no batch has this id.
        """
        return row_of(self._database, batches, batch_id)

    def list(self, after: str | None, limit: int) -> tuple[Sequence[Row], bool]:
        """Returns a page of the batches, newest first, and whether there are more.

        Raises:
          UnknownIdError: no batch has the id `after`.
        """
        with self._database.connect() as connection:
            return page_of(connection, sa.select(batches), batches, after, limit)

    def oldest_active(self) -> Row | None:
        """The oldest batch that has not ended."""
        query = sa.select(batches).where(batches.c.status.in_(ACTIVE)).order_by(batches.c.number)
        return first_of(self._database, query)

    def uses_file(self, file_id: str) -> str | None:
        """The id of an active batch that needs the file."""
        query = sa.select(batches.c.id).where(
            batches.c.status.in_(ACTIVE), batches.c.input_file == file_id
        )
        with self._database.connect() as connection:
            return connection.execute(query.limit(1)).scalar()

    def change_status(
        self, batch_id: str, status: str, *, of: Collection[str], **values: Any
    ) -> bool:
        """Changes a batch's status and other values, if its status is one of `of`.

        Returns:
          Whether its status was one of `of`; if not, nothing was changed.
        """
        where = (batches.c.id == batch_id, batches.c.status.in_(of))
        with self._writing, self._database.begin() as connection:
            times = connection.execute(sa.select(batches.c.changed_at).where(*where)).scalar()
            if times is None:
                return False
            values |= {"status": status, "changed_at": {**times, status: int(time.time())}}
            if status not in ACTIVE:
                old = batch_results.delete().where(batch_results.c.batch_id == batch_id)
                connection.execute(old)
            connection.execute(batches.update().where(*where).values(**values))
        return True

    def add_result(self, batch_id: str, line: int, text: str, *, is_error: bool) -> None:
        """Stores and counts the answer to a line of the input file, unless the batch has ended."""
        count = batches.c.num_failed if is_error else batches.c.num_completed
        result = {"batch_id": batch_id, "line": line, "is_error": is_error, "text": text}
        with self._writing, self._database.begin() as connection:
            update = batches.update().where(batches.c.id == batch_id, batches.c.status.in_(ACTIVE))
            if connection.execute(update.values({count: count + 1})).rowcount == 1:
                connection.execute(batch_results.insert().values(**result))

    def answered_lines(self, batch_id: str) -> set[int]:
        """The lines that have an answer."""
        query = sa.select(batch_results.c.line).where(batch_results.c.batch_id == batch_id)
        with self._database.connect() as connection:
            return set(connection.execute(query).scalars())

    def results(self, batch_id: str, *, is_error: bool) -> Iterator[str]:
        """The answers, by line, a few at a time."""
        line = 0
        while True:
            query = (
                sa.select(batch_results.c.line, batch_results.c.text)
                .where(
                    batch_results.c.batch_id == batch_id,
                    batch_results.c.is_error == is_error,
                    batch_results.c.line > line,
                )
                .order_by(batch_results.c.line)
                .limit(_AT_ONCE)
            )
            with self._database.connect() as connection:
                rows = connection.execute(query).all()
            if not rows:
                return
            yield from (row.text for row in rows)
            line = rows[-1].line
