"""The table of families: its rows are tested by this room and written to docs/models.md.

A new family is one row: docs/how-to/add-a-model.md.
"""

from __future__ import annotations

from tests.models.family_table import dense, experts, latent, state
from tests.models.family_table.row import Row

ROWS: tuple[Row, ...] = (*dense.ROWS, *experts.ROWS, *latent.ROWS, *state.ROWS)
NAMES = tuple(row.name for row in ROWS)


def row_of(name: str) -> Row:
    """The row of that name."""
    return next(row for row in ROWS if row.name == name)
