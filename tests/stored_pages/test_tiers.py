"""Pages in memory and on disk: what is kept, what goes first, and what is never trusted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from flaxen.stored_pages import segment
from flaxen.stored_pages.disk_tier import DiskTier
from flaxen.stored_pages.host_tier import HostTier
from flaxen.stored_pages.page_store import FilledPage, PageStore, page_key

MINE, OTHER = "a" * 64, "b" * 64
SIZE = 1000  # bytes of a page


def page(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, SIZE, np.uint8)


def pages(*numbers: int) -> list[tuple[bytes, np.ndarray]]:
    return [(bytes([0, number]), page(number)) for number in numbers]


def load(tier: DiskTier, *numbers: int) -> list[int]:
    """Which of these pages come back; each must be what it was."""
    found: dict[bytes, np.ndarray] = {}
    for path, keys in tier.find(key for key, _ in pages(*numbers)).items():
        found |= tier.load(path, keys)[0]
    for key, content in found.items():
        np.testing.assert_array_equal(content, page(key[1]))
    return [key[1] for key in found]


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.pages"), key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A directory with the segments of pages 1, 2 and 3, 4."""
    tier = DiskTier(tmp_path, MINE, 10**6)
    tier.store(pages(1, 2), "me")
    tier.store(pages(3, 4), "you")
    tier.close()
    return tmp_path


@pytest.fixture
def opened(stored: Path) -> Iterator[Callable[..., DiskTier]]:
    tiers = []

    def open_tier(fingerprint: str = MINE, num_bytes: int = 10**6) -> DiskTier:
        tiers.append(DiskTier(stored, fingerprint, num_bytes))
        return tiers[-1]

    yield open_tier
    for tier in tiers:
        tier.close()


def test_the_least_recently_used_page_in_memory_goes_first() -> None:
    tier = HostTier(3 * SIZE)
    for key, content in pages(1, 2, 3):
        tier.put(key, content, "me")
    assert tier.get(bytes([0, 1])) is not None
    tier.touch([bytes([0, 3])])
    tier.put(bytes([0, 4]), page(4), "you")
    assert [bytes([0, n]) in tier for n in (1, 2, 3, 4)] == [True, False, True, True]
    tier.put(bytes([0, 5]), np.zeros(3 * SIZE + 1, np.uint8), "me")  # larger than all room
    assert tier.num_held_bytes == 3 * SIZE
    tier.drop("me")
    assert [bytes([0, n]) in tier for n in (1, 3, 4)] == [False, False, True]
    assert tier.num_held_bytes == SIZE
    tier.drop()
    assert tier.num_held_bytes == 0


def test_pages_come_back_from_disk_after_a_restart(opened: Callable[..., DiskTier]) -> None:
    tier = opened()
    assert load(tier, 1, 2, 3, 4, 5) == [1, 2, 3, 4]
    tier.store(pages(4, 5), "me")
    assert tier.num_written == 1  # 4 was there
    tier.drop("you")
    assert load(tier, 1, 2, 3, 4, 5) == [1, 2, 5]
    tier.drop()
    assert load(tier, 1, 2, 5) == []
    assert tier.num_held_bytes == 0


def test_the_least_recently_used_segment_goes_first(
    stored: Path, opened: Callable[..., DiskTier]
) -> None:
    tier = opened()
    time.sleep(0.02)  # the system's clock of files is coarse
    tier.touch([bytes([0, 1])])
    tier.close()
    num_bytes = sum(path.stat().st_size for path in segments(stored))
    tier = opened(num_bytes=num_bytes + 10)
    tier.store(pages(5), "me")
    assert load(tier, 1, 2, 3, 4, 5) == [1, 2, 5]
    tier.store([(b"large", np.zeros(num_bytes + 11, np.uint8))], "me")
    assert tier.num_dropped == 1
    assert load(tier, 1, 2, 5) == [1, 2, 5]


def test_another_model_finds_nothing_and_takes_the_room(
    stored: Path, opened: Callable[..., DiskTier], caplog: pytest.LogCaptureFixture
) -> None:
    tier = opened(OTHER, num_bytes=5 * SIZE)
    assert load(tier, 1, 2, 3, 4) == []
    (own,) = [each for each in stored.iterdir() if each.name == OTHER[:32]]
    for path in segments(stored):  # as if somebody had copied them
        (own / path.name).write_bytes(path.read_bytes())
    tier.close()
    tier = opened(OTHER, num_bytes=5 * SIZE)
    assert load(tier, 1, 2, 3, 4) == []
    assert [record.message for record in caplog.records] == [
        f"{own}: 2 stored segments are not used: other weights, another layout or another version "
        "of flaxen wrote it (said once)"
    ]
    tier.store(pages(7, 8, 9), "me")  # for which the other model's oldest segment goes
    assert load(tier, 7, 8, 9) == [7, 8, 9]
    tier.close()
    assert load(opened(), 1, 2, 3, 4) == []


def damage_at_the_start(path: Path) -> None:
    path.write_bytes(b"x" + path.read_bytes()[1:])


def damage_the_index(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def truncate_to_nothing(path: Path) -> None:
    os.truncate(path, 5)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (damage_at_the_start, "it is no segment"),
        (damage_the_index, "its index is damaged"),
        (truncate, "it has [0-9]* bytes of"),
        (truncate_to_nothing, "it has no index"),
    ],
)
def test_a_damaged_segment_is_removed_at_the_start(
    stored: Path, opened: Callable[..., DiskTier], caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None], why: str,
) -> None:  # fmt: skip
    damage(segments(stored)[0])
    tier = opened()
    assert load(tier, 1, 2, 3, 4) == [3, 4]
    assert len(segments(stored)) == 1
    (record,) = caplog.records
    assert record.message.startswith(f"{stored / MINE[:32]}: 1 stored segments are not used: ")
    assert re.search(why, record.message)


def test_a_flipped_bit_is_found_when_its_page_is_read(
    stored: Path, opened: Callable[..., DiskTier], caplog: pytest.LogCaptureFixture
) -> None:
    for path in segments(stored):
        data = bytearray(path.read_bytes())
        data[-1] ^= 0b100
        path.write_bytes(data)
    tier = opened()
    assert load(tier, 2, 3) == [3]  # each is the intact page of one and the damaged of the other
    assert load(tier, 1, 4) == []
    assert tier.num_mismatches == 2
    assert len(caplog.records) == 1
    assert "a page's checksum is not that of its bytes (said once)" in caplog.text


def test_a_segment_that_is_cut_or_gone_while_it_is_used(
    stored: Path, opened: Callable[..., DiskTier]
) -> None:
    tier = opened()
    first, second = segments(stored)
    first.unlink()
    os.truncate(second, second.stat().st_size - 1)
    assert load(tier, 1, 2) == []
    assert load(tier, 4) == []
    assert tier.num_mismatches == 1  # the other is gone, as if another process had evicted it


def test_a_full_disk_is_said_once_and_written_to_later(
    stored: Path, opened: Callable[..., DiskTier], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tier = opened()
    num_left = 1500

    def write(descriptor: int, data: memoryview) -> int:
        nonlocal num_left
        if len(data) > num_left:
            raise OSError(28, "No space left on device")
        num_left -= len(data)
        return len(data)

    now = 0.0
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        patch.setattr(time, "monotonic", lambda: now)
        tier.store(pages(5, 6), "me")
        tier.store(pages(7), "me")
        now = 40.0
        tier.store(pages(8, 9), "me")
    assert tier.num_dropped == 5
    assert len(caplog.records) == 1
    assert "serving goes on without: [Errno 28] No space left on device" in caplog.text
    assert not list(stored.glob("*/*.tmp"))
    assert load(tier, 1, 2, 3, 4, 5, 7, 8) == [1, 2, 3, 4]


def test_files_of_others_are_neither_counted_nor_removed(tmp_path: Path) -> None:
    letters = tmp_path / "letters"
    letters.mkdir()
    (letters / "lock").touch()
    (letters / "to-my-aunt.pages").write_bytes(b"dear aunt" * 1000)
    tier = DiskTier(tmp_path, MINE, 3 * SIZE)
    assert tier.num_held_bytes == 0
    tier.store(pages(1, 2), "me")
    tier.close()
    assert (letters / "to-my-aunt.pages").exists()


def test_a_segment_that_was_evicted_before_it_is_read_is_no_damage(
    opened: Callable[..., DiskTier], monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = opened()
    ((path, keys),) = tier.find([pages(1)[0][0]]).items()

    def evict_first(*_: object) -> None:
        tier.drop()
        raise FileNotFoundError(path)

    monkeypatch.setattr(segment, "read_pages", evict_first)
    assert tier.load(path, keys) == ({}, "")
    assert tier.num_mismatches == 0


def test_a_directory_has_one_process_for_a_model(
    stored: Path, opened: Callable[..., DiskTier]
) -> None:
    opened()
    with pytest.raises(ValueError, match="another engine stores the same model's pages in"):
        opened()
    with pytest.raises(ValueError, match=r"pages can't be stored in .*Not a directory"):
        DiskTier(segments(stored)[0], OTHER, 1)


WRITER = """
import sys, numpy as np
from pathlib import Path
from flaxen.stored_pages.disk_tier import DiskTier
tier = DiskTier(Path(sys.argv[1]), "a" * 64, 10**9)
for number in range(10**6):
    big = np.full(3_000_000, number % 256, np.uint8)
    tier.store([(number.to_bytes(4, "big"), big)], "me")
    print(number, flush=True)
"""


def test_what_a_killed_process_left_is_whole_or_not_used(tmp_path: Path) -> None:
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "0\n"
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        tier = DiskTier(tmp_path, MINE, 10**9)
        assert not list(tmp_path.glob("*/*.tmp"))
        for path in segments(tmp_path):
            ((key, place),) = segment.read_index(path, MINE).places.items()
            (found,) = segment.read_pages(path, [(key, place)]).values()
            assert (found == int.from_bytes(key, "big") % 256).all()
        tier.drop()
        tier.close()


def test_a_store_keeps_in_memory_and_on_disk_and_reads_what_memory_lacks(tmp_path: Path) -> None:
    def filled(*numbers: int) -> list[FilledPage]:
        return [FilledPage(0, n, bytes([n]), "me", "request") for n in numbers]

    store = PageStore(HostTier(2 * SIZE), DiskTier(tmp_path, MINE, 10**6))
    store.put(filled(1, 2, 3), lambda: [np.stack([page(1), page(2), page(3)])])

    def fail() -> list[np.ndarray]:
        raise RuntimeError("the step failed")

    store.put(filled(4), fail)
    store.flush()
    keys = [page_key(0, bytes([n])) for n in (1, 2, 3, 4)]
    assert [key in store for key in keys] == [True, True, True, False]
    fetch = store.fetch(keys)
    fetch.wait(10)
    assert fetch.is_ready
    for number, key in enumerate(keys[:3], 1):
        np.testing.assert_array_equal(fetch.pages[key], page(number))
    assert len(fetch.pages) == 3
    stats = store.stats()
    assert (stats.num_host_hits, stats.num_disk_hits, stats.num_written) == (2, 1, 3)
    assert (stats.num_dropped, stats.num_mismatches, stats.host_bytes) == (1, 0, 2 * SIZE)
    store.drop("me")
    store.flush()
    assert not any(key in store for key in keys)
    store.put(filled(5), lambda: [page(5)[None]])
    store.close()  # writes what is on its way
    store.close()
    store = PageStore(HostTier(0), DiskTier(tmp_path, MINE, 10**6))
    assert page_key(0, bytes([5])) in store
    store.close()
