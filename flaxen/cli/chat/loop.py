"""The conversation in the terminal. Deliberately does not know where answers come from."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from flaxen.cli.chat.http import Answer, AnswerError, Message

HELP = "/reset forgets the conversation, /exit ends; Ctrl-C stops an answer, a second one ends."


def chat_loop(
    answer: Answer, system: str | None, read: Callable[[], str], write: Callable[[str], object]
) -> None:
    """Reads messages and writes answers until /exit or the end of the input.

    Args:
      answer: streams the pieces of the answer to a conversation; closing it stops it.
      system: the first message of each conversation, if any.
      read: returns the user's next line, or raises EOFError.
      write: shows a piece of text as it is.
    """
    start: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    messages = list(start)
    while True:
        try:
            line = read().strip()
        except EOFError:
            write("\n")
            return
        if line == "/exit":
            return
        if line == "/reset":
            messages = list(start)
            write("The conversation is forgotten.\n")
        elif line.startswith("/"):
            write(f"There is no command {line.split()[0]}. {HELP}\n")
        elif line:
            messages.append({"role": "user", "content": line})
            try:
                text = _stream(answer, messages, write)
            except (ValueError, AnswerError, OSError) as error:  # as when it is too long
                messages.pop()
                write(f"[error: {error}]\nYour last message is left out. {HELP}\n")
            else:
                messages.append({"role": "assistant", "content": text})


def _stream(answer: Answer, messages: list[Message], write: Callable[[str], object]) -> str:
    pieces: list[str] = []
    stream = answer(messages)
    with _interrupts() as interrupted:
        try:
            for piece in stream:
                pieces.append(piece)
                write(piece)
                if interrupted():
                    write(" [stopped]")
                    break
        finally:
            stream.close()
    write("\n")
    return "".join(pieces)


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Records the first Ctrl-C, which may come during an engine step; the second one acts as
    before.
    """
    seen = False

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen = True
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield lambda: seen
    finally:
        signal.signal(signal.SIGINT, previous)
