"""Prompts of arguments, files and the standard input."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from flaxen.cli.prompts import read_lines, read_prompts


class Terminal(io.StringIO):
    """A standard input at which somebody sits."""

    def isatty(self) -> bool:
        return True


def stdin(text: str = "") -> io.StringIO:
    return io.StringIO(text)


def test_prompts_come_in_the_order_of_the_arguments(tmp_path: Path) -> None:
    story, lines = tmp_path / "story.txt", tmp_path / "lines.txt"
    story.write_text("Once\nupon \n", encoding="utf-8")
    lines.write_text("one\n\n  two words\n \n", encoding="utf-8")
    assert read_prompts(["-p", "b"], [story], lines, stdin()) == [
        "-p", "b", "Once\nupon ", "one", "  two words",
    ]  # fmt: skip
    assert read_prompts([], [], lines, stdin()) == ["one", "  two words"]


def test_the_standard_input_is_a_prompt() -> None:
    for texts, files in (([], []), (["-"], []), ([], [Path("-")])):
        assert read_prompts(texts, files, None, stdin("two\nlines\n")) == ["two\nlines"]
    found = read_prompts(["first"], [], Path("-"), stdin("two\nlines\n"))
    assert found == ["first", "two", "lines"]
    with pytest.raises(ValueError, match=r"the standard input \(-\) is named twice"):
        read_prompts(["-"], [], Path("-"), stdin())


def test_a_terminal_is_not_waited_for() -> None:
    with pytest.raises(ValueError, match=r"give a prompt: -p TEXT, --file FILE, --prompts-file"):
        read_prompts([], [], None, Terminal("text"))
    assert read_prompts(["-"], [], None, Terminal("text")) == ["text"]  # unless it is asked for


def test_what_is_no_prompt(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_text("\n")
    with pytest.raises(ValueError, match=r"p\.txt is empty: write at least a word"):
        read_lines(file, stdin())
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"p\.txt is not text in UTF-8: .*can't decode"):
        read_prompts([], [file], None, stdin())
    with pytest.raises(ValueError, match="a prompt is empty: write at least a word"):
        read_prompts([], [], None, stdin())
