"""Converts one OpenAI message to the message that a chat template gets.

Deliberately does not know: templates, HTTP, what is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flaxen.text.tool_calls import read_tool_calls


def template_message(index: int, message: Mapping[str, Any]) -> dict[str, Any]:
    """Checks a message and returns a copy for the template.

    A null field counts as not given and is left out. In an assistant's message with tool calls a
    null or missing content becomes None, which is what templates test for. Its reasoning gets both
    names that templates use, `reasoning` and `reasoning_content`. A tool's result becomes one text,
    because few templates read it as a list of parts.

    Args:
      index: the message's place in the chat, for errors.
      message: in OpenAI's format.

    Raises:
      ValueError: it has no role, a part that is not text, or tool calls that can't be read.
    """
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise ValueError(
            f"messages[{index}] must be an object with a role, e.g. "
            f'{{"role": "user", "content": "Hi"}}, got {str(message)[:200]}'
        )
    read = {name: each for name, each in message.items() if each is not None or name == "content"}
    content = read.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        _check_parts(content, f"messages[{index}].content")
        read["content"] = list(content)
        if read["role"] == "tool":
            read = joined_parts(read)
    thoughts = read.get("reasoning_content", read.get("reasoning"))
    if read["role"] == "assistant" and thoughts is not None:
        read = {"reasoning": thoughts, "reasoning_content": thoughts} | read
    calls = read.pop("tool_calls", None)
    if calls is not None and (calls := read_tool_calls(calls, f"messages[{index}].tool_calls")):
        read = {**read, "content": read.get("content"), "tool_calls": calls}
    return read


def joined_parts(message: dict[str, Any]) -> dict[str, Any]:
    """Returns the message with its list of text parts joined into one text."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": "\n".join(part["text"] for part in content)}


def _check_parts(content: Sequence[Any], where: str) -> None:
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text":
            raise ValueError(
                f"{where}[{i}] is of type {kind!r}: this model reads text only; send parts "
                'like {"type": "text", "text": "Hi"}'
            )
        if not isinstance(part.get("text"), str):
            raise ValueError(f"{where}[{i}] must have a string as text, got {part.get('text')!r}")
