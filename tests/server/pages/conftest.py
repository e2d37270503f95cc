"""The browser of this room's tests, one for each process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.pages.browser import Browser, browser, find_browser


@pytest.fixture(scope="package")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = find_browser()
    if path is None:
        pytest.skip("there is no Chromium on this machine: `make browser` installs Debian's")
    with browser(path, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def tab(chromium: Browser) -> Iterator[Browser]:
    """The browser's tab, which must have no errors at the end."""
    chromium.resize(1280, 800)
    chromium.errors.clear()
    yield chromium
    assert chromium.errors == []
