"""Reads the user's messages, of one line or several. Deliberately does not know the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

_QUOTES = '"""'


class Typed(NamedTuple):
    """What the user typed."""

    text: str
    is_command: bool  # as /reset


def read_message(read_line: Callable[[bool], str]) -> Typed:
    """Reads one message or command.

    Lines between triple quotes are one message, and so are lines that end with a backslash with
    the next one.

    Args:
      read_line: reads a line; its argument is whether the line goes on with a message.

    Raises:
      EOFError: the input has ended before the message.
      ValueError: the input has ended before the closing quotes.
    """
    line = read_line(False)
    if line.lstrip().startswith(_QUOTES):
        return Typed(_block(line.lstrip().removeprefix(_QUOTES), read_line), is_command=False)
    lines = []
    while line.endswith("\\"):
        lines.append(line[:-1])
        try:
            line = read_line(True)
        except EOFError:
            line = ""
    text = "\n".join([*lines, line]).strip()
    return Typed(text, is_command=text.startswith("/") and "\n" not in text)


def _block(line: str, read_line: Callable[[bool], str]) -> str:
    lines = []
    while not line.rstrip().endswith(_QUOTES):
        lines.append(line)
        try:
            line = read_line(True)
        except EOFError:
            raise ValueError(
                f"the message that {_QUOTES} begins is not ended: it is left out"
            ) from None
    return "\n".join([*lines, line.rstrip().removesuffix(_QUOTES)]).strip("\n")
