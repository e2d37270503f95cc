"""Parses one record of a file, or raises an error that says what is wrong with it.

The formats are OpenAI's for fine-tuning and the usual ones of Hugging Face's data sets; they differ
in their keys. Keys of no known format are metadata of the data set and are ignored.

Deliberately does not know: files, tokens, templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flaxen.data.chat_keys import (
    read_system,
    read_template_kwargs,
    read_tools,
    refuse_chat_keys,
)
from flaxen.data.config import RecordFormat
from flaxen.data.formats import to_openai
from flaxen.data.implicit_prompt import (
    Messages,
    common_text,
    find_text_in_messages,
    num_common_messages,
    repeats_text,
    split_messages,
)
from flaxen.data.messages import read_messages, read_text, show


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text, or a part of a long one; all of it has a loss."""

    text: str
    begins: bool = True  # whether the text's beginning and end are in it
    ends: bool = True


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A prompt and its completion; only the completion has a loss."""

    prompt: str
    completion: str


@dataclass(frozen=True, kw_only=True)
class Chat:
    """A conversation for the model's chat template; the trained messages have a loss."""

    messages: tuple[Mapping[str, Any], ...]
    trained: tuple[int, ...]  # indices of assistant messages, ascending, not empty
    tools: tuple[Mapping[str, Any], ...] | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)  # for the template, by name


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two answers to the same prompt; the first is preferred."""

    chosen: Completion | Chat
    rejected: Completion | Chat


Record = Text | Completion | Chat | Pair

_KEYS: Mapping[RecordFormat, tuple[str, ...]] = {
    "chat": ('{"messages"}', '{"conversations"}', '{"instruction", "output"}'),
    "text": ('{"text"}',),
    "completion": ('{"prompt", "completion"}',),
    "preference": (
        '{"input": {"messages"}, "preferred_output", "non_preferred_output"}',
        '{"prompt", "chosen", "rejected"}',
        '{"chosen", "rejected"}',
    ),
}


def parse_record(value: object, format: RecordFormat) -> Record:
    """Parses one JSON value as a record.

    Args:
      value: as read from JSON or Parquet.
      format: the format it must have; "auto" recognises it by its keys.

    Raises:
      ValueError: the value is not in the format; the message says which key is wrong.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"a record must be a JSON object, got {show(value)}")
    given = {name: each for name, each in value.items() if each is not None}
    record = to_openai(given)
    found = _find_format(record)
    if found is None or format not in ("auto", found):
        wanted = [keys for name, all in _KEYS.items() if format in ("auto", name) for keys in all]
        names = ", ".join(map(repr, value)) or "none"
        raise ValueError(f"a record must have the keys {' or '.join(wanted)}, got {names[:200]}")
    if found in ("chat", "completion"):
        _refuse_unpaired(record)
    if found == "text":
        refuse_chat_keys(record)
        return Text(text=read_text(record["text"], "text"))
    if found == "chat":
        return _chat([], read_messages(record["messages"], "messages"), record)
    if found == "completion":
        return _completion(record)
    return _pair(record)


def _find_format(value: Mapping[str, Any]) -> RecordFormat | None:
    asks = "prompt" in value
    if "chosen" in value and "rejected" in value:
        return "preference"
    answers = "preferred_output" in value and "non_preferred_output" in value
    if answers and (asks or "input" in value):
        return "preference"
    if "messages" in value:
        return "chat"
    if "completion" in value and asks:
        return "completion"
    return "text" if "text" in value else None


def _refuse_unpaired(record: Mapping[str, Any]) -> None:
    """Refuses an unpaired preference: supervised training would learn unwanted answers."""
    for name in ("label", "kto_tag"):
        if isinstance(record.get(name), bool):
            raise ValueError(
                f"the record is an unpaired preference: {name} says whether its answer is wanted, "
                "and no method here learns from that. Give pairs of chosen and rejected, or leave "
                f"out the records with unwanted answers and the key {name}"
            )


def _completion(record: Mapping[str, Any]) -> Completion | Chat:
    prompt, answer = record["prompt"], record["completion"]
    if isinstance(prompt, str) and isinstance(answer, str):
        refuse_chat_keys(record)
        begun = len(prompt) if repeats_text(prompt, answer) else 0
        return _text_completion(prompt, answer[begun:], "completion")
    messages = _answer_messages(prompt, answer, "completion")
    if not isinstance(prompt, str):
        return _chat(*split_messages(read_messages(prompt, "prompt"), messages), record)
    found = find_text_in_messages(read_text(prompt, "prompt"), messages)
    if found is None:
        raise ValueError(
            f"completion begins with a message of the {messages[0]['role']}, and no user's message "
            "in it has the text of prompt: give the whole conversation as messages"
        )
    return _chat(*found, record)


def _pair(record: Mapping[str, Any]) -> Pair:
    if "chosen" in record and "rejected" in record:
        names, name, prompt = ("chosen", "rejected"), "prompt", record.get("prompt")
    else:  # OpenAI's format
        asked = record["input"] if "input" in record else record["prompt"]
        if not isinstance(asked, Mapping) or "messages" not in asked:
            raise ValueError(f'input must be an object with "messages", got {show(asked)}')
        names, name = ("preferred_output", "non_preferred_output"), "messages"
        record, prompt = {**record, **asked}, asked["messages"]
    one, other = (record[each] for each in names)
    if isinstance(one, str) and isinstance(other, str) and isinstance(prompt, str | None):
        refuse_chat_keys(record)
        return _text_pair(prompt, one, other)
    answers = [_answer_messages(prompt, record[each], each) for each in names]
    if prompt is None or isinstance(prompt, str):
        halves = _split_by_text(prompt, *answers)
    else:
        halves = [split_messages(read_messages(prompt, name), answer) for answer in answers]
    chosen, rejected = (_chat(*half, record) for half in halves)
    return Pair(chosen=chosen, rejected=rejected)


def _text_pair(prompt: str | None, chosen: str, rejected: str) -> Pair:
    if prompt is None:
        prompt = common_text(chosen, rejected)
        begun = len(prompt)
    else:
        both = repeats_text(prompt, chosen) and repeats_text(prompt, rejected)
        begun = len(prompt) if both else 0
    return Pair(
        chosen=_text_completion(prompt, chosen[begun:], "chosen"),
        rejected=_text_completion(prompt, rejected[begun:], "rejected"),
    )


def _text_completion(prompt: str, completion: str, name: str) -> Completion:
    return Completion(
        prompt=read_text(prompt, "prompt", may_be_empty=True),
        completion=read_text(completion, name),
    )


def _split_by_text(
    prompt: str | None, chosen: Messages, rejected: Messages
) -> list[tuple[Messages, Messages]]:
    """Splits two conversations into prompt and answer; the prompt is a text or is not given."""
    if prompt is not None:
        read_text(prompt, "prompt")
        found = [find_text_in_messages(prompt, each) for each in (chosen, rejected)]
        halves = [each for each in found if each is not None]
        if len(halves) == 2:
            return halves
    num = num_common_messages(chosen, rejected)
    if not num:
        raise ValueError(
            "chosen and rejected begin with other messages, so it is not known what both answer: "
            "give it as prompt"
        )
    return [(each[:num], each[num:]) for each in (chosen, rejected)]


def _answer_messages(prompt: object, answer: object, name: str) -> Messages:
    if isinstance(answer, str):
        return [{"role": "assistant", "content": read_text(answer, name)}]
    if isinstance(answer, Mapping) or not isinstance(answer, Sequence):
        raise ValueError(
            f"prompt and {name} must be both texts or both lists of messages, got {show(prompt)} "
            f"and {show(answer)}"
        )
    return read_messages(answer, name)


def _chat(asked: Messages, answer: Messages, record: Mapping[str, Any]) -> Chat:
    """A conversation whose answer has a loss."""
    system = read_system(record, [*asked, *answer])
    messages = [*system, *asked, *answer]
    learned_from = len(system) + len(asked)
    weights = [message.get("weight", 1) for message in messages]
    trained = tuple(
        i
        for i, message in enumerate(messages)
        if i >= learned_from and message["role"] == "assistant" and weights[i]
    )
    if not trained:
        where = "the answer has" if asked else "the messages have"
        raise ValueError(
            f'{where} nothing to learn: at least one must have the role "assistant" and no '
            '"weight" of 0'
        )
    if trained[0] == 0:
        raise ValueError("the first message is the assistant's: begin with what it answers to")
    return Chat(
        messages=tuple(
            {name: each for name, each in message.items() if name != "weight"}
            for message in messages
        ),
        trained=trained,
        tools=read_tools(record),
        template_kwargs=read_template_kwargs(record),
    )
