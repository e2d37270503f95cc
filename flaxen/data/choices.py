"""Multiple-choice questions from JSON lines, as sequences with a loss on the choice's tokens.

Deliberately does not know: how log-probabilities are computed.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flaxen.data.chat_keys import CHAT_KEYS, refuse_chat_keys
from flaxen.data.config import OnBadRecord
from flaxen.data.encode import Encoder, TokenSequence
from flaxen.data.lines import JsonLines
from flaxen.data.records import Completion, Record, parse_record


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt and several choices; the right one should be the likeliest after the prompt."""

    records: tuple[Record, ...]  # one for each choice: the prompt and the choice
    choice_bytes: tuple[int, ...]  # the length of each choice's text in UTF-8
    answer: int  # the index of the right choice
    place: str = ""  # FILE:LINE


@dataclass(frozen=True, kw_only=True)
class Questions:
    """The questions of several files."""

    questions: tuple[Question, ...]
    num_bad: int


def read_questions(
    files: Iterable[Path], on_bad_record: OnBadRecord = "fail", max_record_bytes: int = 16 << 20
) -> Questions:
    """Reads files with one question a line.

    A question is {"choices": [TEXT, ...], "answer": INDEX} and one of three keys: "prompt", a text
    that a choice continues (a space is added if neither has white space there); "question", with
    the prompt "Question: ...\\nAnswer:"; "messages", with the choices as the assistant's answers.

    Raises:
      ValueError: a line is bad and bad lines are not allowed, or no line is good.
      OSError: a file can't be read.
    """
    questions, bad = [], []
    for path in files:
        source = JsonLines(path, max_record_bytes)
        bad += [f"{path}:{line}: {message}" for line, message in source.errors]
        for index in range(len(source)):
            try:
                question = parse_question(source.value(index))
                questions.append(replace(question, place=f"{path}:{source.line(index)}"))
            except ValueError as error:
                bad.append(f"{path}:{source.line(index)}: {error}")
    if bad and (on_bad_record == "fail" or not questions):
        total = len(questions) + len(bad)
        raise ValueError(
            f"{len(bad)} of {total} questions can't be used: {'; '.join(bad[:5])}. Correct them"
        )
    if not questions:
        raise ValueError("there is no question: write one JSON object a line")
    return Questions(questions=tuple(questions), num_bad=len(bad))


def parse_question(value: object) -> Question:
    """Parses one JSON value as a question.

    Raises:
      ValueError: it is not a question; the message says which key is wrong.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"a question must be a JSON object, got {str(value)[:80]}")
    asked = [name for name in ("prompt", "question", "messages") if name in value]
    if len(asked) != 1 or "choices" not in value or "answer" not in value:
        raise ValueError(
            "a question must have choices, answer and one of prompt, question and messages, got "
            f"{', '.join(map(str, value)) or 'no keys'}"
        )
    choices, answer = value["choices"], value["answer"]
    if not isinstance(choices, list) or len(choices) < 2:
        raise ValueError(f"choices must be a list of at least two texts, got {str(choices)[:80]}")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise ValueError(
            f"answer must be the index of the right choice, from 0 to {len(choices) - 1}, got "
            f"{answer!r}"
        )
    return Question(
        records=tuple(_record(asked[0], value, choice) for choice in choices),
        choice_bytes=tuple(len(choice.encode()) for choice in choices),
        answer=answer,
    )


def encode_question(
    encoder: Encoder, question: Question, eos_ids: Iterable[int], length: int
) -> tuple[tuple[TokenSequence, ...], bool]:
    """One sequence for each choice, of at most `length` inputs: a long prompt loses its beginning.

    Returns:
      The sequences, with loss weights on the choice's tokens only, and whether a prompt was cut.

    Raises:
      ValueError: a choice alone is too long, or the template refuses the messages.
    """
    try:
        return _encode_question(encoder, question, set(eos_ids), length)
    except ValueError as error:
        raise ValueError(f"{question.place}: {error}" if question.place else str(error)) from error


def _encode_question(
    encoder: Encoder, question: Question, ends: Container[int], length: int
) -> tuple[tuple[TokenSequence, ...], bool]:
    found, was_cut = [], False
    for record in question.records:
        ((tokens, weights),) = encoder.encode(record)
        scored = [int(i) for i in weights.nonzero()[0]]
        if len(scored) > 1 and int(tokens[scored[-1]]) in ends:
            weights[scored.pop()] = 0  # the end-of-turn token is not part of the choice
        begin = max(0, scored[-1] - length)
        if scored[0] <= begin:
            raise ValueError(f"a choice of {len(scored)} tokens is too long for {length} tokens")
        was_cut = was_cut or begin > 0
        stop = scored[-1] + 1
        found.append(TokenSequence(tokens[begin:stop], weights[begin:stop]))
    return tuple(found), was_cut


def _record(kind: str, value: Mapping[str, Any], choice: Any) -> Record:
    asked = value[kind]
    if not isinstance(choice, str) or not choice:
        raise ValueError(f"a choice must be a text that is not empty, got {choice!r}")
    if kind == "messages":
        messages = asked if isinstance(asked, list) else [asked]
        keys = {name: each for name, each in value.items() if name in CHAT_KEYS}
        return parse_record({**keys, "prompt": messages, "completion": choice}, "completion")
    refuse_chat_keys(value)
    if not isinstance(asked, str):
        raise ValueError(f"{kind} must be a text, got {asked!r}")
    prompt = f"Question: {asked}\nAnswer:" if kind == "question" else asked
    joined = prompt[-1:].isspace() or choice[0].isspace() or not prompt
    return Completion(prompt=prompt, completion=choice if joined else f" {choice}")
