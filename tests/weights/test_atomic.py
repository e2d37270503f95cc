"""A directory that appears whole: what others put into it meanwhile is not lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from flaxen.weights.atomic import new_directory


def fill(directory: Path, meanwhile: str | None = None) -> None:
    with new_directory(directory, replaces=("ours",)) as filling:
        (filling / "ours").write_text("new")
        if meanwhile is not None:
            directory.mkdir(exist_ok=True)
            (directory / meanwhile).write_text("theirs")


def test_what_is_put_there_while_it_is_filled_stays(tmp_path: Path) -> None:
    directory = tmp_path / "adapter"
    fill(directory)
    with pytest.raises(ValueError, match=r"already holds notes\.txt, which would be lost"):
        fill(directory, "notes.txt")
    assert {path.name: path.read_text() for path in directory.iterdir()} == {
        "ours": "new", "notes.txt": "theirs"
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == [directory]
    (directory / "notes.txt").unlink()
    fill(directory, "ours")
    assert (directory / "ours").read_text() == "new"
