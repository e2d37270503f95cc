"""Checks the messages of a record one by one; errors name the place.

Deliberately does not know: which messages are trained, formats of records, templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flaxen.text.tool_calls import read_tool_calls

# Role -> the name in templates. `developer` is OpenAI's newer name; serving maps it likewise.
_ROLES = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant",
    "tool": "tool",
}  # fmt: skip
# Keys that say whether a message has a loss: OpenAI's, and two of axolotl's.
TRAINED_MARKS = ("weight", "train", "training")


def read_messages(value: object, name: str) -> list[dict[str, Any]]:
    """Checks messages and returns copies.

    Raises:
      ValueError: the value is not a list of messages, or a message is not supported.
    """
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence) or not value:
        raise ValueError(f"{name} must be a list of at least one message, got {show(value)}")
    return [_message(message, f"{name}[{i}]") for i, message in enumerate(value)]


def read_text(value: object, name: str, *, may_be_empty: bool = False) -> str:
    """Checks a text.

    Raises:
      ValueError: the value is not a string, is empty, or is not valid Unicode.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, got {show(value)}")
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


def show(value: object) -> str:
    """Shortens a value for an error message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _message(message: object, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping) or "role" not in message:
        raise ValueError(f"{where} must be an object with a role, got {show(message)}")
    role = message["role"]
    if not isinstance(role, str) or role not in _ROLES:
        raise ValueError(f"{where}.role must be one of {', '.join(_ROLES)}, got {show(role)}")
    if message.get("function_call") is not None:
        raise ValueError(f"{where}.function_call is not supported: use tool_calls")
    weight = _weight(message, role, where)
    calls = message.get("tool_calls")
    if calls and (role != "assistant" or isinstance(calls, str | Mapping)):
        raise ValueError(f"{where}.tool_calls must be a list, on an assistant's message")
    content = message.get("content")
    if content is None and not calls:
        raise ValueError(f"{where} has neither content nor tool_calls: give it a content")
    if isinstance(content, str):
        read_text(content, f"{where}.content", may_be_empty=True)
    elif content is not None:
        _check_parts(content, f"{where}.content")
    # Null means not given: Parquet adds keys of other records as nulls.
    read = {
        key: each for key, each in message.items() if each is not None and key not in TRAINED_MARKS
    }
    read |= {"role": _ROLES[role]} | ({} if weight is None else {"weight": weight})
    if calls:
        read |= {"content": content, "tool_calls": read_tool_calls(calls, f"{where}.tool_calls")}
    else:
        read.pop("tool_calls", None)
    return read


def _weight(message: Mapping[str, Any], role: str, where: str) -> int | None:
    """1 if the message is trained, 0 if not, None if it does not say."""
    if message.get("train_detail") is not None:
        raise ValueError(
            f"{where}.train_detail is not supported: a message is learned as a whole, or not at "
            'all with "weight": 0'
        )
    marks = {name: message[name] for name in TRAINED_MARKS if message.get(name) is not None}
    for name, value in marks.items():
        if value not in (0, 1) or (value and role != "assistant"):
            raise ValueError(
                f"{where}.{name} must be 0 or 1, and 1 only on an assistant's message, got "
                f"{show(value)} on one of the role {role}"
            )
    return int(min(marks.values())) if marks else None


def _check_parts(content: object, where: str) -> None:
    if not isinstance(content, Sequence):
        raise ValueError(f"{where} must be a text or a list of parts, got {show(content)}")
    for i, part in enumerate(content):
        if not isinstance(part, Mapping) or part.get("type") != "text":
            raise ValueError(f"{where}[{i}] must be a part of type text, got {show(part)}")
        read_text(part.get("text"), f"{where}[{i}].text", may_be_empty=True)
