"""Checks chat messages as sent, and converts them to the messages of a chat template.

Knows: roles, content parts, and the other fields of an assistant's message.
Deliberately does not know templates or tokens.
"""

from __future__ import annotations

from typing import Any

from flaxen.server.errors import invalid
from flaxen.server.generation.custom_tools import arguments_of
from flaxen.server.generation.fields_without_effect import MESSAGE, PART, drop_inside
from flaxen.server.generation.old_functions import as_tool_messages
from flaxen.server.schema import must_be, shorten
from flaxen.text.tool_calls import read_tool_calls

# `developer` is OpenAI's newer name for `system`; templates only know the older one.
_ROLES = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant",
    "tool": "tool",
}  # fmt: skip
_FIELDS = ("role", "content", "name")
# Fields of some roles only; the template decides what it shows.
_MORE_FIELDS = {
    "assistant": ("reasoning", "reasoning_content", "tool_calls"),
    "tool": ("tool_call_id",),
}
# The field with a part's text; in histories of the Responses API parts have other types.
_TEXT_OF_PART = {
    "text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal",
}  # fmt: skip
_PARTS_A_MESSAGE = 4  # the average that the limit of messages allows


def check_size(messages: list[Any], max_messages: int) -> None:
    """Checks the number of messages and parts before anything else.

    Raises:
      ApiError: 400, there are more than the server's limit.
    """
    if len(messages) > max_messages:
        raise invalid(
            f"messages must hold at most {max_messages} messages on this server, got "
            f"{len(messages)}: send the last ones, or start the server with a larger "
            "--max-messages",
            "messages",
        )
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    num_parts = sum(len(content) for content in contents if isinstance(content, list))
    if num_parts > max_messages * _PARTS_A_MESSAGE:
        raise invalid(
            f"the contents of messages must hold at most {max_messages * _PARTS_A_MESSAGE} parts "
            f"on this server, got {num_parts}: join their texts, or start the server with a "
            "larger --max-messages",
            "messages",
        )


def read_messages(messages: list[Any]) -> list[dict[str, Any]]:
    """Checks the messages. A content is a string or a list of text parts; an assistant's may be
    None.

    Raises:
      ApiError: 400 with the wrong place as its param.
    """
    if not messages:
        raise invalid("messages must hold at least one message, got none", "messages")
    given = as_tool_messages(messages)
    return [_read_message(each, f"messages[{i}]") for i, each in enumerate(given)]


def _read_message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise must_be(where, "an object with role and content", message, "invalid_type")
    role = message.get("role")
    more = _MORE_FIELDS.get(role, ()) if isinstance(role, str) else ()
    known = (*_FIELDS, *more)
    rules = {name: rule for name, rule in MESSAGE.items() if name not in known}
    fields = drop_inside(message, rules, f"{where}.")
    for name in fields:
        if name not in known:
            param = f"{where}.{name[:80]}"
            raise invalid(
                f"unknown field {param!r}: a message has {', '.join(known)}",
                param,
                "unknown_parameter",
            )
    read: dict[str, Any] = {"role": _read_role(role, f"{where}.role")}
    content = fields.pop("content", None)
    if content is not None or role != "assistant":  # an assistant's answer may have no text
        content = read_content(content, f"{where}.content")
    calls = fields.pop("tool_calls", None)
    if calls:
        try:
            read["tool_calls"] = read_tool_calls(_as_functions(calls), f"{where}.tool_calls")
        except ValueError as error:
            raise invalid(str(error), f"{where}.tool_calls") from None
    for name, value in fields.items():
        if not isinstance(value, str):
            param = f"{where}.{name}"
            raise must_be(param, "a string", value, "invalid_type")
    return fields | read | {"content": content}


def _as_functions(calls: Any) -> Any:
    """Calls with those of custom tools as calls of functions; what is none stays as it is."""
    return [_as_function(call) for call in calls] if isinstance(calls, list) else calls


def _as_function(call: Any) -> Any:
    custom = call.get("custom") if isinstance(call, dict) else None
    if not isinstance(custom, dict) or not isinstance(custom.get("input"), str):
        return call
    kept = {name: value for name, value in call.items() if name != "custom"}
    function = {"name": custom.get("name"), "arguments": arguments_of(custom["input"])}
    return {**kept, "type": "function", "function": function}


def _read_role(role: Any, where: str) -> str:
    if not isinstance(role, str) or role not in _ROLES:
        raise must_be(where, f"one of {', '.join(_ROLES)}", role)
    return _ROLES[role]


def read_content(content: Any, where: str) -> str | list[dict[str, Any]]:
    """Checks a content: a string, or a list of text parts, which become parts of type "text".

    Args:
      content: as it was sent.
      where: its place in the body, as "messages[0].content", for errors.

    Raises:
      ApiError: 400 with the wrong place as its param.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise must_be(where, "a string or a list of text parts", content, "invalid_type")
    return [_read_part(part, f"{where}[{i}]") for i, part in enumerate(content)]


def text_of(content: str | list[dict[str, Any]]) -> str:
    """The text of a content that was checked."""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _read_part(part: Any, where: str) -> dict[str, Any]:
    """Checks a part and returns it as a part of type "text"."""
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or kind not in _TEXT_OF_PART:
        raise must_be(
            where,
            "a part of type 'text', the only kind the model reads",
            kind if isinstance(part, dict) else part,
        )
    name = _TEXT_OF_PART[kind]
    fields = drop_inside(part, PART, f"{where}.")
    if not isinstance(fields.get(name), str):
        raise invalid(f"{where} must hold type and {name} (a string), got {shorten(part)}", where)
    for field in fields:
        if field not in ("type", name):
            param = f"{where}.{field[:80]}"
            raise invalid(
                f"unknown field {param!r}: a text part has type and {name}",
                param,
                "unknown_parameter",
            )
    return {"type": "text", "text": fields[name]}
