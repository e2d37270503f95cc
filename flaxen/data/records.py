"""One record of a file to what is to be learned from it, or an error that says what is wrong.

The formats are OpenAI's for fine-tuning and those usual in Hugging Face's data sets; their keys
tell them apart. Other keys than a format's are taken for the data set's own notes.

Deliberately does not know: files, tokens, templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flaxen.data.config import Format

_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text, or a part of a long one; loss on all of it."""

    text: str
    begins: bool = True  # whether the text's beginning and end are in it
    ends: bool = True


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A prompt and what should follow it; loss on what follows."""

    prompt: str
    completion: str


@dataclass(frozen=True, kw_only=True)
class Chat:
    """A conversation for the model's template; loss on the trained messages."""

    messages: tuple[Mapping[str, Any], ...]
    trained: tuple[int, ...]  # indices of assistant messages, ascending, not empty
    tools: tuple[Mapping[str, Any], ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two answers to the same prompt, the first preferred."""

    chosen: Completion | Chat
    rejected: Completion | Chat


Record = Text | Completion | Chat | Pair

_KEYS: Mapping[Format, tuple[str, ...]] = {
    "chat": ('{"messages"}',),
    "text": ('{"text"}',),
    "completion": ('{"prompt", "completion"}',),
    "preference": (
        '{"input": {"messages"}, "preferred_output", "non_preferred_output"}',
        '{"prompt", "chosen", "rejected"}',
    ),
}


def parse_record(value: object, format: Format) -> Record:
    """The record in one JSON value.

    Args:
      value: as JSON or Parquet gives it.
      format: what it must be; "auto" finds out by its keys.

    Raises:
      ValueError: it is not of the format; says which key is wrong.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"a record must be a JSON object, got {_show(value)}")
    found = _find_format(value)
    if found is None or format not in ("auto", found):
        wanted = [keys for name, all in _KEYS.items() if format in ("auto", name) for keys in all]
        given = ", ".join(map(repr, value)) or "none"
        raise ValueError(f"a record must have the keys {' or '.join(wanted)}, got {given[:200]}")
    if found == "text":
        return Text(text=_text(value["text"], "text"))
    if found == "chat":
        messages = _messages(value["messages"], "messages")
        return _chat(messages, len(messages), value)
    if found == "completion":
        return _answer(value["prompt"], value["completion"], "completion", value)
    if "preferred_output" not in value:
        return Pair(
            chosen=_answer(value["prompt"], value["chosen"], "chosen", value),
            rejected=_answer(value["prompt"], value["rejected"], "rejected", value),
        )
    asked = value["input"] if "input" in value else value["prompt"]
    if not isinstance(asked, Mapping) or "messages" not in asked:
        raise ValueError(f'input must be an object with "messages", got {_show(asked)}')
    return Pair(
        chosen=_answer(asked["messages"], value["preferred_output"], "preferred_output", asked),
        rejected=_answer(
            asked["messages"], value["non_preferred_output"], "non_preferred_output", asked
        ),
    )


def _find_format(value: Mapping[str, Any]) -> Format | None:
    asks = "prompt" in value
    if "chosen" in value and "rejected" in value and asks:
        return "preference"
    answers = "preferred_output" in value and "non_preferred_output" in value
    if answers and (asks or "input" in value):
        return "preference"
    if "messages" in value:
        return "chat"
    if "completion" in value and asks:
        return "completion"
    return "text" if "text" in value else None


def _answer(
    prompt: object, answer: object, name: str, value: Mapping[str, Any]
) -> Completion | Chat:
    """A prompt and its answer: both texts, or both messages."""
    if isinstance(prompt, str) and isinstance(answer, str):
        return Completion(
            prompt=_text(prompt, "prompt", may_be_empty=True), completion=_text(answer, name)
        )
    if isinstance(prompt, str) or isinstance(answer, str):
        raise ValueError(
            f"prompt and {name} must be both texts or both lists of messages, got "
            f"{_show(prompt)} and {_show(answer)}"
        )
    asked = _messages(prompt, "messages" if "messages" in value else "prompt")
    return _chat([*asked, *_messages(answer, name)], len(asked), value, learned_from=len(asked))


def _chat(
    messages: Sequence[dict[str, Any]],
    num_asked: int,
    value: Mapping[str, Any],
    learned_from: int = 0,
) -> Chat:
    for name in ("functions", "function_call"):
        if value.get(name) is not None:
            raise ValueError(f"{name} is not supported: describe functions in tools")
    tools = value.get("tools")
    if tools is not None and not (
        isinstance(tools, Sequence) and all(isinstance(tool, Mapping) for tool in tools)
    ):
        raise ValueError(f"tools must be a list of objects, got {_show(tools)}")
    weights = [message.pop("weight", 1) for message in messages]
    trained = tuple(
        i
        for i, message in enumerate(messages)
        if i >= learned_from and message["role"] == "assistant" and weights[i]
    )
    if not trained:
        where = "the messages have" if learned_from == 0 else "the answer has"
        raise ValueError(
            f'{where} nothing to learn: at least one must have the role "assistant" and no '
            '"weight" of 0'
        )
    if trained[0] == 0:
        raise ValueError("the first message is the assistant's: begin with what it answers to")
    return Chat(
        messages=tuple(messages), trained=trained, tools=tuple(tools) if tools is not None else None
    )


def _messages(value: object, name: str) -> list[dict[str, Any]]:
    """Checks messages, and copies each."""
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence) or not value:
        raise ValueError(f"{name} must be a list of at least one message, got {_show(value)}")
    return [_message(message, f"{name}[{i}]") for i, message in enumerate(value)]


def _message(message: object, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping) or "role" not in message:
        raise ValueError(f"{where} must be an object with a role, got {_show(message)}")
    role = message["role"]
    if role not in _ROLES:
        raise ValueError(f"{where}.role must be one of {', '.join(_ROLES)}, got {_show(role)}")
    if message.get("function_call") is not None:
        raise ValueError(f"{where}.function_call is not supported: use tool_calls")
    weight = message.get("weight")
    if weight is not None and (role != "assistant" or weight not in (0, 1)):
        raise ValueError(
            f"{where}.weight must be 0 or 1, on an assistant's message, got {_show(weight)} on "
            f"one of the role {role}"
        )
    calls = message.get("tool_calls")
    if calls and (role != "assistant" or not isinstance(calls, Sequence)):
        raise ValueError(f"{where}.tool_calls must be a list, on an assistant's message")
    content = message.get("content")
    if content is None and not calls:
        raise ValueError(f"{where} has neither content nor tool_calls: give it a content")
    if isinstance(content, str):
        _text(content, f"{where}.content", may_be_empty=True)
    elif content is not None:
        _parts(content, f"{where}.content")
    # Parquet fills in keys that other records have.
    return {key: each for key, each in message.items() if each is not None or key == "content"}


def _parts(content: object, where: str) -> None:
    if not isinstance(content, Sequence):
        raise ValueError(f"{where} must be a text or a list of parts, got {_show(content)}")
    for i, part in enumerate(content):
        if not isinstance(part, Mapping) or part.get("type") != "text":
            raise ValueError(f"{where}[{i}] must be a part of type text, got {_show(part)}")
        _text(part.get("text"), f"{where}[{i}].text", may_be_empty=True)


def _text(value: object, name: str, *, may_be_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, got {_show(value)}")
    if not value and not may_be_empty:
        raise ValueError(f"{name} is empty: there is nothing to learn from it")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} is not valid Unicode: it holds half of a surrogate pair at character "
            f"{error.start}"
        ) from None
    return value


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
