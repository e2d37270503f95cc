"""Pages of a table's rows in the order of creation, selected by the database.

Deliberately does not know the meaning of a row, nor how a client asks for a page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

Row = dict[str, Any]  # one row of a table, by column

_READ_AT_ONCE = 500  # rows per query, if `keeps` must filter them in Python


class UnknownIdError(LookupError):
    """No row has this id. Final."""

    def __init__(self, row_id: str) -> None:
        self.row_id = row_id


def first_of(database: sa.Engine, query: sa.Select[Any]) -> Row | None:
    """The first row of a query; None if it has none."""
    with database.connect() as connection:
        row = connection.execute(query.limit(1)).mappings().first()
    return None if row is None else dict(row)


def row_of(database: sa.Engine, table: sa.Table, row_id: str) -> Row:
    """The row of a table with an id.

    Raises:
      UnknownIdError: no row has it.
    """
    row = first_of(database, sa.select(table).where(table.c.id == row_id))
    if row is None:
        raise UnknownIdError(row_id)
    return row


def page_of(
    connection: sa.Connection,
    query: sa.Select[Any],
    table: sa.Table,
    after: str | None,
    limit: int,
    *,
    newest_first: bool = True,
    keeps: Callable[[Row], bool] | None = None,
) -> tuple[Sequence[Row], bool]:
    """A page of a query's rows, and whether there are more.

    Args:
      query: selects rows of `table`, without an order.
      table: has the columns `number`, in order of creation, and `id`.
      after: the id of the previous page's last row; None for the first page.
      limit: the most rows of the page.
      keeps: decides whether a row belongs to the list, if the query can't; None keeps all rows.

    Raises:
      UnknownIdError: the query has no row with the id `after`.
    """
    place: int | None = None
    if after is not None:
        found = connection.execute(query.where(table.c.id == after)).mappings().first()
        if found is None or (keeps is not None and not keeps(dict(found))):
            raise UnknownIdError(after)
        place = found["number"]
    number = table.c.number
    ordered = query.order_by(number.desc() if newest_first else number)
    at_once = limit + 1 if keeps is None else _READ_AT_ONCE
    kept: list[Row] = []
    while len(kept) <= limit:
        part = ordered
        if place is not None:
            part = part.where(number < place if newest_first else number > place)
        rows = [dict(row) for row in connection.execute(part.limit(at_once)).mappings()]
        kept += [row for row in rows if keeps is None or keeps(row)]
        if len(rows) < at_once:
            break
        place = rows[-1]["number"]
    return kept[:limit], len(kept) > limit
