"""Messages of one line and of several."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flaxen.chat.reading import Typed, read_message


def typed(*lines: str) -> Callable[[bool], str]:
    rest = iter(lines)
    is_first = True

    def read(goes_on: bool) -> str:
        nonlocal is_first
        assert goes_on != is_first
        is_first = False
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    return read


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["  hello "], "hello"),
        ([""], ""),
        (['"""a', "  b", 'c"""'], "a\n  b\nc"),
        (['"""', "a", "", "b", '""" '], "a\n\nb"),
        (['"""one line"""'], "one line"),
        (['"""pasted\nlines"""'], "pasted\nlines"),
        (['""""""'], ""),
        (['"""/exit"""'], "/exit"),
        (["a \\", "b\\", "c"], "a \nb\nc"),
        (["a\\"], "a"),
        (["pasted\nlines"], "pasted\nlines"),
        (["/etc/hosts\n127.0.0.1"], "/etc/hosts\n127.0.0.1"),
    ],
)
def test_a_message(lines: list[str], text: str) -> None:
    assert read_message(typed(*lines)) == Typed(text, is_command=False)


def test_a_command() -> None:
    assert read_message(typed(" /reset")) == Typed("/reset", is_command=True)


def test_the_end_of_the_input() -> None:
    with pytest.raises(EOFError):
        read_message(typed())
    with pytest.raises(ValueError, match='the message that """ begins is not ended: it is left ou'):
        read_message(typed('"""a', "b"))
