"""docs/models.md is what the table of families says, apart from the errors that were measured."""

from __future__ import annotations

from tests.models.family_table import ROWS
from tools.models_table import NOT_MEASURED, PAGE, document, errors_of


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    errors = errors_of(page)
    assert page == document(errors), "run `python -m tools.models_table`"
    assert all(each == NOT_MEASURED or 0 < float(each) < 2e-4 for each in errors.values())


def test_errors_are_read_as_written() -> None:
    errors = {row.model: f"{number}.0e-06" for number, row in enumerate(ROWS, 1)}
    assert errors_of(document(errors)) == errors
