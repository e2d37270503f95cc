"""Keys of a record, beside its messages, that change how its conversation is rendered.

Each is used or refused by name, never ignored: otherwise the model would be trained on another text
than it is served with. Deliberately does not know: formats of records, templates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from flaxen.data.messages import read_text, show
from flaxen.text.chat import RESERVED_VARIABLES

CHAT_KEYS = ("system", "tools", "chat_template_kwargs")


def read_system(
    record: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The system message that a record's key "system" adds to its messages: one or none.

    Raises:
      ValueError: it is not a string, or the messages begin with another system message.
    """
    value = record.get("system")
    if value is None or value == "":
        return []
    text = read_text(value, "system")
    first = messages[0]
    if first["role"] not in ("system", "developer"):
        return [{"role": "system", "content": text}]
    if first["content"] != text:
        raise ValueError(
            f"system is {show(text)}, and the conversation begins with another "
            f"system message, {show(first['content'])}: leave out one of the two"
        )
    return []


def read_tools(record: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...] | None:
    """The record's tools or None. A string is parsed as JSON, since data sets keep tools so.

    Raises:
      ValueError: tools is not a list of objects, or the record has `functions`, the older form.
    """
    for name in ("functions", "function_call"):
        if record.get(name) is not None:
            raise ValueError(f"{name} is not supported: describe functions in tools")
    value = record.get("tools")
    tools = _from_json(value, "tools")
    if tools is None:
        return None
    is_list = isinstance(tools, Sequence) and not isinstance(tools, str)
    if not is_list or not all(isinstance(tool, Mapping) for tool in tools):
        raise ValueError(f"tools must be a list of objects, got {show(value)}")
    return tuple(_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools)) or None


def _tool(tool: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Returns the tool with its parameters as an object, which templates print as JSON."""
    function = tool.get("function")
    if isinstance(function, Mapping):
        return {**tool, "function": _tool(function, f"{where}.function")}
    if not isinstance(tool.get("parameters"), str):
        return tool
    parameters = _from_json(tool["parameters"], f"{where}.parameters")
    if not isinstance(parameters, Mapping):
        raise ValueError(
            f"{where}.parameters must be a JSON object, got {show(tool['parameters'])}"
        )
    return {**tool, "parameters": parameters}


def _from_json(value: object, where: str) -> Any:
    """Parses a string as JSON; returns any other value unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except ValueError as error:
        raise ValueError(f"{where} is not valid JSON: {error}, got {show(value)}") from None


def read_template_kwargs(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Variables for the chat template, e.g. enable_thinking.

    Raises:
      ValueError: the value is not an object, or sets a variable that the record or the model
          determines.
    """
    value = record.get("chat_template_kwargs")
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"chat_template_kwargs must be an object, got {show(value)}")
    for name in value:
        if name in RESERVED_VARIABLES or name in ("chat_template", "continue_final_message"):
            raise ValueError(
                f"chat_template_kwargs may not set {name!r}: it follows from the record and the "
                "model"
            )
    return value


def refuse_chat_keys(record: Mapping[str, Any]) -> None:
    """Refuses these keys in a record of plain text, where they would have no effect.

    Raises:
      ValueError: the record has one of the keys.
    """
    for name in CHAT_KEYS:
        if record.get(name):
            raise ValueError(
                f"{name} belongs to a conversation, and the record is plain text: write it as "
                "messages, or take the key out"
            )
