"""The terminal of a chat: lines are read with readline, and notes are told from answers.

A text that is pasted is one message, however many lines it has: readline takes it as a whole where
the terminal marks it ("bracketed paste"). Deliberately does not know conversations.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from flaxen.chat.history import append_history, read_history
from flaxen.cli.interrupt import unwind_first
from flaxen.cli.printing import without_controls


def say(text: str) -> None:
    """Shows a note. It goes to stderr, so that stdout has the answers alone."""
    console = Console(stderr=True)
    console.print(
        without_controls(text), style="dim", markup=False, highlight=False, soft_wrap=True
    )


def line_reader(completions: list[str]) -> Callable[[bool], str]:
    """Returns a function that reads a line of the standard input, with a prompt on a terminal.

    Its argument is whether the line goes on with a message. It raises EOFError, and on a terminal
    Interrupted at Ctrl-C.

    Args:
      completions: the words that the tab key completes at the beginning of a line.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return lambda goes_on: input()
    readline = _readline()
    if readline is not None:
        readline.parse_and_bind("set enable-bracketed-paste on")
        readline.parse_and_bind("tab: complete")
        readline.set_completer_delims("")  # the line is completed as a whole
        readline.set_completer(_completer(completions))
        readline.set_auto_history(False)  # a message of several lines is one entry

    def read(goes_on: bool) -> str:
        if not goes_on:
            print()
        return unwind_first(lambda: input("... " if goes_on else "> "), goes_on=True)

    return read


def recall(path: Path | None) -> Callable[[str], None]:
    """Loads the history for the arrow keys, and returns a function that adds what was typed.

    A history that can't be kept is said once; None keeps none.
    """
    readline = _readline()
    if path is None or readline is None or not sys.stdin.isatty():
        return lambda text: None
    is_kept = True

    def add(text: str) -> None:
        nonlocal is_kept
        readline.add_history(text)
        try:
            if is_kept:
                append_history(path, text)
        except OSError as error:
            is_kept = False
            say(f"[the history is not kept: {error}]")

    try:
        for entry in read_history(path):
            readline.add_history(entry)
    except OSError as error:
        is_kept = False
        say(f"[the history is not kept: {error}]")
    return add


def default_history(
    environment: Mapping[str, str], find_home: Callable[[], Path] = Path.home
) -> Path | None:
    """The file of the history, by the XDG convention.

    None for a user without a home, as in a container that runs under a number.
    """
    root = environment.get("XDG_STATE_HOME")
    try:
        return Path(root or find_home() / ".local" / "state") / "flaxen" / "chat_history"
    except RuntimeError:
        return None


def _readline() -> Any:
    """The module that gives input() a history and editing keys; None in a Python without it."""
    try:
        return importlib.import_module("readline")
    except ImportError:
        return None


def _completer(words: list[str]) -> Callable[[str, int], str | None]:
    def complete(text: str, index: int) -> str | None:
        found = [word for word in words if text and word.startswith(text)]
        return found[index] if index < len(found) else None

    return complete
