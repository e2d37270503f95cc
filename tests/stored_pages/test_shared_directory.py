"""Servers of different models on one directory, which together keep its limit."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flaxen.stored_pages import disk_tier
from flaxen.stored_pages.disk_tier import DiskTier

SIZE, LIMIT = 10_000, 100_000  # bytes of a page, and of all segments: nine of a page
MINE, OTHER = "a" * 64, "b" * 64


def store(tier: DiskTier, *numbers: int) -> None:
    for number in numbers:
        tier.store([(bytes([number]), np.full(SIZE, number, np.uint8))], "me")
        time.sleep(0.005)  # the system's clock of files is coarse


def found(tier: DiskTier) -> list[int]:
    """The pages that come back, each of which must be what it was."""
    numbers = []
    for path, (key,) in tier.find(bytes([number]) for number in range(256)).items():
        for page in tier.load(path, [key])[0].values():
            assert (page == key[0]).all()
            numbers.append(key[0])
    return sorted(numbers)


def num_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*/*.pages"))


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[DiskTier, DiskTier]]:
    tiers = DiskTier(tmp_path, MINE, LIMIT), DiskTier(tmp_path, OTHER, LIMIT)
    yield tiers
    for tier in tiers:
        tier.close()


def test_the_limit_is_that_of_the_directory(
    two: tuple[DiskTier, DiskTier], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine, other = two
    store(mine, *range(9))
    assert found(mine) == list(range(9))
    for number in range(100, 104):
        store(other, number)
        assert num_bytes(tmp_path) <= LIMIT
    # The oldest of all went, whose they were; who finds them gone calls it no damage.
    assert found(other) == [100, 101, 102, 103]
    assert found(mine) == [4, 5, 6, 7, 8]
    assert (mine.num_mismatches, caplog.records) == (0, [])
    assert mine.num_held_bytes + other.num_held_bytes == num_bytes(tmp_path)
    store(mine, 0)  # again, for which its own oldest goes
    assert found(mine) == [0, 5, 6, 7, 8]
    assert found(other) == [100, 101, 102, 103]


def test_what_was_used_since_it_was_listed_stays(two: tuple[DiskTier, DiskTier]) -> None:
    mine, other = two
    store(mine, *range(8))
    store(other, 100)
    mine.touch([bytes([0]), bytes([1])])
    store(other, 101)
    assert found(mine) == [0, 1, 3, 4, 5, 6, 7]


def test_a_server_that_has_ended_counts_and_goes_first(
    two: tuple[DiskTier, DiskTier], tmp_path: Path
) -> None:
    mine, other = two
    store(other, *range(100, 105))
    other.close()
    store(mine, *range(12))
    assert num_bytes(tmp_path) <= LIMIT
    assert found(mine) == list(range(3, 12))
    tier = DiskTier(tmp_path, OTHER, LIMIT)
    assert found(tier) == []
    tier.close()


def test_two_that_write_at_once_keep_the_limit(
    two: tuple[DiskTier, DiskTier], tmp_path: Path
) -> None:
    def write(tier: DiskTier) -> None:
        for number in range(60):
            tier.store([(bytes([number]), np.full(SIZE, number, np.uint8))], "me")

    threads = [threading.Thread(target=write, args=(tier,)) for tier in two]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert LIMIT / 2 < num_bytes(tmp_path) <= LIMIT
    assert [tier.num_dropped + tier.num_mismatches for tier in two] == [0, 0]
    assert len(found(two[0])) + len(found(two[1])) == len(list(tmp_path.glob("*/*.pages")))


def test_a_folder_in_which_nothing_changes_is_not_listed_again(
    two: tuple[DiskTier, DiskTier], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = two
    store(other, 100)
    folder = tmp_path / OTHER[:32]
    os.utime(folder, (1, 1))  # long ago
    listed = []

    def listing(path: Path) -> object:
        listed.append(path)
        return segments_in(path)

    segments_in = disk_tier._segments_in
    monkeypatch.setattr(disk_tier, "_segments_in", listing)
    store(mine, 1, 2, 3)
    assert listed == [folder]
    store(other, 101)
    del listed[:]
    store(mine, 4)
    assert folder in listed
