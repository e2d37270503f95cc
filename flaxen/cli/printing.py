"""Prints what a model or a server wrote. Deliberately does not know what it means."""

from __future__ import annotations

import sys

_CONTROLS = dict.fromkeys(
    code for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"
)


def print_text(text: str) -> None:
    """Prints a piece of text at once, on a terminal without control characters."""
    print(without_controls(text) if sys.stdout.isatty() else text, end="", flush=True)


def without_controls(text: str) -> str:
    """Removes the control characters but newline and tab.

    A model or a server could otherwise change the terminal: its title, its colours, its clipboard.
    """
    return text.translate(_CONTROLS)
