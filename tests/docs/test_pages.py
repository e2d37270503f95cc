"""Every code block of the README and the documents runs, in order, as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import find_blocks, pages
from tests.docs.session import open_session
from tests.docs.stand_in import write_package

ROOT = Path(__file__).parents[2]
PAGES = [page for page in pages(ROOT) if list(find_blocks(page.read_text()))]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("stand_in"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run(page: Path, tmp_path: Path, python_path: Path) -> None:
    with open_session(tmp_path, python_path) as session:
        for block in find_blocks(page.read_text()):
            try:
                session.run(block)
            except AssertionError as error:
                raise AssertionError(f"{page.name}, line {block.line}:\n{error}") from None
