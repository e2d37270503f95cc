"""The history of what was typed."""

from __future__ import annotations

import stat
from pathlib import Path

from flaxen.chat.history import KEPT, append_history, read_history


def test_what_is_added_is_read_by_the_next_run(tmp_path: Path) -> None:
    file = tmp_path / "flaxen" / "chat_history"
    assert read_history(file) == []
    append_history(file, "hello")
    append_history(file, "two\nlines “here”")
    assert read_history(file) == ["hello", "two\nlines “here”"]


def test_only_its_user_can_read_it(tmp_path: Path) -> None:
    file = tmp_path / "flaxen" / "chat_history"
    append_history(file, "hello")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    for _ in range(2 * KEPT):
        append_history(file, "again")
    read_history(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_it_does_not_grow_without_end(tmp_path: Path) -> None:
    file = tmp_path / "chat_history"
    for i in range(2 * KEPT + 1):
        append_history(file, str(i))
    wanted = [str(i) for i in range(KEPT + 1, 2 * KEPT + 1)]
    assert read_history(file) == wanted
    assert len(file.read_text().splitlines()) == KEPT
    assert [path.name for path in tmp_path.iterdir()] == ["chat_history"]
    assert read_history(file) == wanted


def test_a_damaged_line_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "chat_history"
    append_history(file, "hello")
    with file.open("ab") as opened:
        opened.write(b'"half\n7\n\xff\n')
    append_history(file, "bye")
    assert read_history(file) == ["hello", "bye"]
