"""The conversation in the terminal, with answers computed by hand."""

import os
import signal
from collections.abc import Callable, Generator, Sequence

import pytest

from flaxen.cli.chat.http import AnswerError, Message
from flaxen.cli.chat.loop import chat_loop


class Model:
    """Answers with the number of messages it was asked with; remembers them."""

    def __init__(self, on_piece: Callable[[int], None] = lambda i: None) -> None:
        self.asked: list[list[Message]] = []
        self.closed = 0
        self.on_piece = on_piece

    def answer(self, messages: Sequence[Message]) -> Generator[str, None, None]:
        self.asked.append(list(messages))
        try:
            for i, piece in enumerate(["I was ", f"asked {len(messages)}", " things."]):
                self.on_piece(i)
                yield piece
        finally:
            self.closed += 1


def converse(model: Model, lines: list[str], system: str | None = None) -> str:
    """Types the lines, then ends the input. Returns what was written."""
    rest = iter(lines)
    written: list[str] = []

    def read() -> str:
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    chat_loop(model.answer, system, read, written.append)
    return "".join(written)


def test_each_turn_sends_the_whole_conversation() -> None:
    model = Model()
    written = converse(model, ["hello", "  ", "and?"], system="Be kind.")
    assert written == "I was asked 2 things.\nI was asked 4 things.\n\n"
    assert [message["role"] for message in model.asked[1]] == [
        "system", "user", "assistant", "user",
    ]  # fmt: skip
    assert model.asked[1][2]["content"] == "I was asked 2 things."


def test_reset_keeps_only_the_system_message() -> None:
    model = Model()
    assert "forgotten" in converse(model, ["hello", "/reset", "again"], system="Be kind.")
    assert [message["content"] for message in model.asked[1]] == ["Be kind.", "again"]


def test_exit_ends_before_the_next_line() -> None:
    model = Model()
    assert converse(model, ["/exit", "hello"]) == ""
    assert not model.asked


def test_an_unknown_command_is_not_sent_to_the_model() -> None:
    model = Model()
    assert "There is no command /rest. /reset forgets" in converse(model, ["/rest now"])
    assert not model.asked


def test_ctrl_c_stops_the_answer_and_keeps_what_came() -> None:
    def interrupt(i: int) -> None:
        if i == 1:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    model = Model(interrupt)
    written = converse(model, ["hello", "more"])
    assert written.startswith("I was asked 1 [stopped]\n")
    assert model.asked[1][1]["content"] == "I was asked 1"
    assert model.closed == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_the_chat() -> None:
    def interrupt(i: int) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    model = Model(interrupt)
    with pytest.raises(KeyboardInterrupt):
        converse(model, ["hello"])
    assert model.closed == 1


@pytest.mark.parametrize(
    "error", [ValueError("too long"), OSError("no answer"), AnswerError("the engine failed")]
)
def test_a_turn_that_fails_is_left_out_and_the_chat_goes_on(error: Exception) -> None:
    def fail(i: int) -> None:
        if i == 1 and len(model.asked) == 2:
            raise error

    model = Model(fail)
    written = converse(model, ["hello", "a long story", "and?"])
    assert f"I was [error: {error}]\nYour last message is left out. /reset forgets" in written
    assert [message["content"] for message in model.asked[2]] == [
        "hello", "I was asked 1 things.", "and?",
    ]  # fmt: skip
    assert model.closed == 3
