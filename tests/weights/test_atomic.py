"""A directory that appears whole: what others put into it meanwhile is not lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flaxen.weights.atomic import new_directory, new_file, set_aside


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


def fail_beside(directory: Path, meanwhile: Callable[[Path], object]) -> None:
    with set_aside(directory):
        assert not directory.exists()
        meanwhile(directory)
        raise RuntimeError("full disk")


@pytest.mark.parametrize("meanwhile", [lambda path: None, lambda path: path.mkdir()])
def test_a_failing_block_gives_back_what_was_there(
    tmp_path: Path, meanwhile: Callable[[Path], None]
) -> None:
    directory = tmp_path / "adapter"
    fill(directory)
    with pytest.raises(RuntimeError, match="full disk"):
        fail_beside(directory, meanwhile)
    assert (directory / "ours").read_text() == "new"
    assert list(tmp_path.iterdir()) == [directory]


def test_a_block_that_ends_leaves_what_it_made(tmp_path: Path) -> None:
    directory = tmp_path / "adapter"
    fill(directory)
    with set_aside(directory):
        pass
    assert list(tmp_path.iterdir()) == []
    with set_aside(directory) as old:
        assert old is None


def put_a_directory(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("theirs")


@pytest.mark.parametrize("put", [put_a_directory, lambda path: path.write_text("theirs")])
def test_what_took_the_name_meanwhile_costs_nobody_anything(
    tmp_path: Path, put: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "adapter"
    fill(directory)
    with pytest.raises(RuntimeError, match="full disk"):
        fail_beside(directory, put)
    theirs = directory / "notes.txt" if directory.is_dir() else directory
    assert theirs.read_text() == "theirs"
    [kept] = tmp_path.glob(".adapter.*/old")
    assert (kept / "ours").read_text() == "new"
    assert f"it is kept in {kept}, move it from there by hand" in caplog.text


def test_a_file_that_took_the_name_while_it_was_filled_stays(tmp_path: Path) -> None:
    directory = tmp_path / "adapter"
    with (
        pytest.raises(ValueError, match="adapter is a file: give the name of a directory"),
        new_directory(directory),
    ):
        directory.write_text("theirs")
    assert directory.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [directory]


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "model.gguf"
    with new_file(path) as writing:
        writing.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    with pytest.raises(ValueError, match=r"model\.gguf exists already: remove it, or give another"):
        fill_file(path)
    other = tmp_path / "deeper" / "other.gguf"
    with pytest.raises(ValueError, match=r"other\.gguf exists already"):
        fill_file(other, lambda: other.write_text("theirs"))
    with pytest.raises(RuntimeError, match="full disk"):
        fill_file(tmp_path / "third.gguf", lambda: fail("full disk"))
    assert {each.name: each.read_text() for each in path.parent.iterdir()} == {
        "model.gguf": "whole", "other.gguf": "theirs"
    }  # fmt: skip
    assert [each.name for each in tmp_path.iterdir()] == ["deeper"]


def fill_file(path: Path, meanwhile: Callable[[], object] = lambda: None) -> None:
    with new_file(path) as writing:
        writing.write_text("ours")
        meanwhile()


def fail(why: str) -> None:
    raise RuntimeError(why)
