"""The turns of a conversation. Deliberately does not know where answers come from, or go to."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import FrameType

from flaxen.chat.answers import Answer, AnswerError, Ending
from flaxen.chat.commands import Next, Say, run_command
from flaxen.chat.conversation import Conversation
from flaxen.chat.reading import Typed


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Where a conversation is shown."""

    write: Callable[[str], object]  # shows a piece of an answer
    say: Say
    shows_counts: bool = False  # after each answer


def chat_loop(
    answer: Answer, conversation: Conversation, read: Callable[[], Typed], screen: Screen
) -> None:
    """Reads messages and writes answers until /exit or the end of the input.

    What fails leaves the conversation as it was before.

    Args:
      answer: streams the pieces of the answer to a conversation; closing it stops it.
      conversation: is changed.
      read: returns what the user typed, or raises EOFError.
      screen: shows answers and notes.
    """
    while True:
        before = list(conversation.messages)
        try:
            step = _take(read(), conversation, screen.say)
            if step is Next.EXIT:
                return
            if step is not Next.READ:
                _answer(answer, conversation, screen)
        except EOFError:
            return
        except (ValueError, AnswerError, OSError) as error:
            conversation.messages[:] = before
            screen.say(f"error: {error}")


def answer_once(answer: Answer, conversation: Conversation, screen: Screen) -> None:
    """Writes one answer, to the last message.

    Raises:
      AnswerError, ValueError, OSError: as in the answer.
    """
    _, ending = _stream(answer, conversation, screen, lambda: False)
    _note_cut(ending, screen.say, in_conversation=False)


def _take(typed: Typed, conversation: Conversation, say: Say) -> Next:
    if typed.is_command:
        return run_command(typed.text, conversation, say)
    if not typed.text:
        return Next.READ
    conversation.add("user", typed.text)
    return Next.ANSWER


def _answer(answer: Answer, conversation: Conversation, screen: Screen) -> None:
    """Adds an answer to the conversation, or continues the one that is its last message."""
    with _interrupts() as interrupted:
        text, ending = _stream(answer, conversation, screen, interrupted)
        was_stopped = interrupted()
    if conversation.ends_with_answer:
        conversation.extend_answer(text)
    elif text or not was_stopped:
        conversation.add("assistant", text)
    else:
        conversation.messages.pop()
        screen.say("[stopped before the answer began: your message is left out]")
        return
    if was_stopped:
        screen.say("[stopped]")
    elif not text:
        screen.say("[the answer is empty]")
    _note_cut(ending, screen.say, in_conversation=True)


def _stream(
    answer: Answer, conversation: Conversation, screen: Screen, interrupted: Callable[[], bool]
) -> tuple[str, Ending]:
    """Writes an answer as it comes; a stopped one has an ending without counts."""
    pieces: list[str] = []
    ending = Ending()
    start_s = time.perf_counter()
    first_s = None
    try:
        with closing(answer(conversation.asked, conversation.sampling)) as stream:
            for piece in stream:
                if isinstance(piece, Ending):
                    ending = piece
                    continue
                if piece:
                    first_s = first_s or time.perf_counter()
                    pieces.append(piece)
                    screen.write(piece)
                if interrupted():
                    break
    finally:
        if pieces:
            screen.write("\n")
    if screen.shows_counts and first_s is not None:
        screen.say(describe_counts(ending, first_s - start_s, time.perf_counter() - first_s))
    return "".join(pieces), ending


def describe_counts(ending: Ending, first_s: float, rest_s: float) -> str:
    """The numbers of tokens and the times of an answer.

    Args:
      ending: of the answer; a stopped one, and some servers', has no counts.
      first_s: seconds to the first piece of text.
      rest_s: seconds from there to the end.
    """
    cached = f" ({ending.num_cached_tokens} cached)" if ending.num_cached_tokens else ""
    said = [f"first text after {first_s:.2f} s"]
    if ending.num_prompt_tokens is not None:
        said.insert(0, f"{ending.num_prompt_tokens} prompt tokens{cached}")
    if (num := ending.num_output_tokens) is not None:
        speed = f" at {(num - 1) / rest_s:.1f} tokens/s" if num > 1 and rest_s > 0 else ""
        said.append(f"{num} token{'' if num == 1 else 's'}{speed}")
    return f"[{', '.join(said)}]"


def _note_cut(ending: Ending, say: Say, *, in_conversation: bool) -> None:
    if (cut := ending.cut) is None:
        return
    advice = ["/continue goes on"] if cut.can_continue else []
    advice.append("/set max_tokens allows more" if cut.can_raise else "/reset starts over")
    say(f"[cut at {cut.limit}{': ' + ', '.join(advice) if in_conversation else ''}]")


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
