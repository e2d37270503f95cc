"""Pages on disk after the weights were changed: this process has them, and no other start."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from flaxen.stored_pages.disk_tier import DiskTier
from flaxen.stored_pages.host_tier import HostTier
from flaxen.stored_pages.page_store import FilledPage, PageStore, page_key

FINGERPRINT = "a" * 64
Start = Callable[..., PageStore]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a store on a directory, with nothing in memory."""
    stores = []

    def opened(directory: Path = tmp_path / "pages") -> PageStore:
        stores.append(PageStore(HostTier(0), DiskTier(directory, FINGERPRINT, 10**6)))
        return stores[-1]

    yield opened
    for each in stores:
        each.close()


def put(store: PageStore, *numbers: int, ends: bool = True) -> None:
    pages = [FilledPage(0, n, bytes([n]), "me", "request") for n in numbers]
    rows = np.stack([np.full(100, n, np.uint8) for n in numbers])
    store.put(pages, lambda: [rows])
    if ends:
        store.ended("request", [])
        store.flush()


def found(store: PageStore) -> list[int]:
    """The pages that come back, each of which must be what it was."""
    fetch = store.fetch([page_key(0, bytes([n])) for n in range(50)])
    fetch.wait(10)
    assert fetch.is_read
    for key, page in fetch.pages.items():
        assert (page == key[1]).all()
    return sorted(key[1] for key in fetch.pages)


def test_other_weights_go_on_storing_for_this_process_alone(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    store = start()
    put(store, 1, 2)
    put(store, 3, ends=False)  # nobody may have it under the new fingerprint
    store.change_weights()
    put(store, 11, 12)
    assert found(store) == [1, 2, 11, 12]  # no prompt asks for 1 and 2: other weights, other keys
    store.change_weights()
    put(store, 21)
    assert found(store) == [1, 2, 21]
    store.drop("me")
    store.flush()
    assert found(store) == [1, 2]
    put(store, 22)
    store.close()
    assert found(start()) == [1, 2]
    assert caplog.records == []


def test_what_a_killed_process_stored_of_other_weights_is_found_by_nobody(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = start()
    put(store, 1)
    store.change_weights()
    put(store, 11)
    left = tmp_path / "left"
    shutil.copytree(tmp_path / "pages", left)  # as the process leaves it if it is killed now
    assert len(list(left.glob("*/*.pages"))) == 2
    assert found(start(left)) == [1]
    assert len(list(left.glob("*/*.pages"))) == 1
    assert caplog.records == []


def test_a_name_alone_gives_no_trust(start: Start, tmp_path: Path) -> None:
    store = start()
    put(store, 1)
    store.change_weights()
    put(store, 11)
    left = tmp_path / "left"
    shutil.copytree(tmp_path / "pages", left)
    (unnamed,) = left.glob("*/unnamed-*.pages")
    unnamed.rename(unnamed.with_name(unnamed.name.removeprefix("unnamed-")))
    assert found(start(left)) == [1]
