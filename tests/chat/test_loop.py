"""The conversation in the terminal, with answers computed by hand."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import pytest

from flaxen.chat.answers import AnswerError, Cut, Ending, Message
from flaxen.chat.conversation import Conversation
from flaxen.chat.loop import Screen, answer_once, chat_loop, describe_counts
from flaxen.chat.reading import Typed


class Model:
    """Answers with the number of messages it was asked with; remembers them."""

    def __init__(self, on_piece: Callable[[int], None] = lambda i: None) -> None:
        self.asked: list[list[Message]] = []
        self.sampling: list[Mapping[str, Any]] = []
        self.closed = 0
        self.on_piece = on_piece
        self.ending = Ending()
        self.pieces: list[str] | None = None  # in place of the number of messages

    def answer(
        self, messages: Sequence[Message], sampling: Mapping[str, Any]
    ) -> Generator[str | Ending, None, None]:
        self.asked.append(list(messages))
        self.sampling.append(dict(sampling))
        pieces = ["I was ", f"asked {len(messages)}", " things."]
        try:
            for i, piece in enumerate(pieces if self.pieces is None else self.pieces):
                self.on_piece(i)
                yield piece
            yield self.ending
        finally:
            self.closed += 1


class Seen:
    """What was shown."""

    def __init__(self) -> None:
        self.answers = ""
        self.notes: list[str] = []

    def write(self, text: str) -> None:
        self.answers += text

    def screen(self, *, shows_counts: bool = False) -> Screen:
        return Screen(write=self.write, say=self.notes.append, shows_counts=shows_counts)


def converse(
    model: Model, lines: list[str], system: str | None = None, *, shows_counts: bool = False
) -> Seen:
    """Types the lines, then ends the input."""
    rest, seen = iter(lines), Seen()

    def read() -> Typed:
        try:
            line = next(rest)
        except StopIteration:
            raise EOFError from None
        return Typed(line, is_command=line.startswith("/"))

    chat_loop(
        model.answer, Conversation(system=system), read, seen.screen(shows_counts=shows_counts)
    )
    return seen


def texts(messages: list[Message]) -> list[str]:
    return [message["content"] for message in messages]


def test_each_turn_sends_the_whole_conversation() -> None:
    model = Model()
    seen = converse(model, ["hello", "", "and?"], system="Be kind.")
    assert seen.answers == "I was asked 2 things.\nI was asked 4 things.\n"
    assert seen.notes == []
    assert [message["role"] for message in model.asked[1]] == [
        "system", "user", "assistant", "user",
    ]  # fmt: skip
    assert model.asked[1][2]["content"] == "I was asked 2 things."


def test_reset_keeps_only_the_system_message() -> None:
    model = Model()
    seen = converse(model, ["hello", "/reset", "again"], system="Be kind.")
    assert seen.notes == ["The conversation is forgotten."]
    assert texts(model.asked[1]) == ["Be kind.", "again"]


def test_exit_ends_before_the_next_line() -> None:
    model = Model()
    assert converse(model, ["/exit", "hello"]).answers == ""
    assert not model.asked


def test_an_unknown_command_is_not_sent_to_the_model() -> None:
    model = Model()
    seen = converse(model, ["/rest now"])
    assert seen.notes[0].startswith("error: there is no command /rest: did you mean /reset?")
    assert not model.asked


def test_what_is_set_holds_from_the_next_answer_on() -> None:
    model = Model()
    converse(model, ["hello", "/set temperature 0.5", "and?", "/set temperature default", "so?"])
    assert model.sampling == [{}, {"temperature": 0.5}, {}]


def test_an_answer_is_generated_again_or_continued() -> None:
    model = Model()
    converse(model, ["hello", "/regenerate", "/continue", "and?"])
    assert model.asked[1] == model.asked[0]
    once = "I was asked 1 things."
    assert texts(model.asked[2]) == ["hello", once]
    assert texts(model.asked[3]) == ["hello", once + "I was asked 2 things.", "and?"]


@pytest.mark.parametrize("command", ["/regenerate", "/continue"])
def test_without_an_answer_there_is_none_to_change(command: str) -> None:
    (note,) = converse(Model(), [command]).notes
    assert note.startswith("error: there is no answer yet to ")


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (Cut(limit="--max-tokens 9", can_continue=True, can_raise=True),
         "[cut at --max-tokens 9: /continue goes on, /set max_tokens allows more]"),
        (Cut(limit="the context's 9 tokens", can_continue=False, can_raise=False),
         "[cut at the context's 9 tokens: /reset starts over]"),
        (Cut(limit="--max-tokens 9", can_continue=False, can_raise=True),
         "[cut at --max-tokens 9: /set max_tokens allows more]"),
    ],
)  # fmt: skip
def test_a_cut_answer_says_so(cut: Cut, said: str) -> None:
    model = Model()
    model.ending = Ending(cut=cut)
    assert converse(model, ["hello"]).notes == [said]
    seen = Seen()
    conversation = Conversation(messages=[{"role": "user", "content": "hello"}])
    answer_once(model.answer, conversation, seen.screen())
    assert (seen.answers, seen.notes) == ("I was asked 1 things.\n", [f"[cut at {cut.limit}]"])


def test_counts_are_shown_where_they_are_known() -> None:
    full = Ending(num_prompt_tokens=7, num_cached_tokens=5, num_output_tokens=21)
    assert describe_counts(full, 0.25, 2.0) == (
        "[7 prompt tokens (5 cached), first text after 0.25 s, 21 tokens at 10.0 tokens/s]"
    )
    one = Ending(num_prompt_tokens=7, num_cached_tokens=0, num_output_tokens=1)
    assert describe_counts(one, 0.25, 0.0) == "[7 prompt tokens, first text after 0.25 s, 1 token]"
    assert describe_counts(Ending(), 0.25, 2.0) == "[first text after 0.25 s]"
    model = Model()
    model.ending = one
    (note,) = converse(model, ["hello"], shows_counts=True).notes
    assert note.startswith("[7 prompt tokens, first text after 0.")


def test_ctrl_c_stops_the_answer_and_keeps_what_came() -> None:
    def interrupt(i: int) -> None:
        if i == 1:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    model = Model(interrupt)
    seen = converse(model, ["hello", "more"])
    assert seen.answers.startswith("I was asked 1\n")
    assert seen.notes[0] == "[stopped]"
    assert model.asked[1][1]["content"] == "I was asked 1"
    assert model.closed == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_before_the_answer_begins_leaves_the_message_out() -> None:
    def interrupt(i: int) -> None:
        if len(model.asked) == 1:
            signal.raise_signal(signal.SIGINT)

    model = Model(interrupt)
    model.pieces = ["", "I was "]
    seen = converse(model, ["hello", "more"])
    assert seen.notes == ["[stopped before the answer began: your message is left out]"]
    assert seen.answers == "I was \n"
    assert texts(model.asked[1]) == ["more"]


def test_a_second_ctrl_c_ends_the_chat() -> None:
    def interrupt(i: int) -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)  # to this thread, at once

    model = Model(interrupt)
    with pytest.raises(KeyboardInterrupt):
        converse(model, ["hello"])
    assert model.closed == 1


def test_an_empty_answer_is_told_from_no_answer() -> None:
    model = Model()
    model.pieces = []
    assert converse(model, ["hello"]).notes == ["[the answer is empty]"]


@pytest.mark.parametrize(
    "error", [ValueError("too long"), OSError("no answer"), AnswerError("the engine failed")]
)
@pytest.mark.parametrize("turn", ["a long story", "/regenerate", "/continue"])
def test_a_turn_that_fails_leaves_the_conversation_as_it_was(error: Exception, turn: str) -> None:
    def fail(i: int) -> None:
        if i == 1 and len(model.asked) == 2:
            raise error

    model = Model(fail)
    seen = converse(model, ["hello", turn, "and?"])
    assert "I was \n" in seen.answers
    assert seen.notes == [f"error: {error}"]
    assert texts(model.asked[2]) == ["hello", "I was asked 1 things.", "and?"]
    assert model.closed == 3
