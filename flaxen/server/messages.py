"""Chat messages as sent -> the plain messages that a chat template renders.

Knows: roles and content parts. Deliberately does not know templates or tokens.
"""

from __future__ import annotations

from typing import Any

from flaxen.server.errors import invalid
from flaxen.server.idle import MESSAGE, PART, drop_idle_inside
from flaxen.server.schema import shorten

# `developer` is OpenAI's newer name for `system`; templates know only the older one.
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_FIELDS = ("role", "content", "name")
_PARTS_A_MESSAGE = 4  # that the limit of messages allows on the average


def check_size(messages: list[Any], max_messages: int) -> None:
    """Checks how many messages and parts there are, before any of them is looked into.

    Raises:
      ApiError: 400, more than the server reads.
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
    """Checks the messages; a content is a string or a list of text parts, as it was sent. An
    assistant's may be None.

    Raises:
      ApiError: 400 with the wrong place as its param.
    """
    if not messages:
        raise invalid("messages must hold at least one message, got none", "messages")
    return [_read_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _read_message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise invalid(
            f"{where} must be an object with role and content, got {shorten(message)}",
            where,
            "invalid_type",
        )
    fields = drop_idle_inside(message, MESSAGE, f"{where}.")
    for field in fields:
        if field not in _FIELDS:
            param = f"{where}.{field[:80]}"
            raise invalid(
                f"unknown field {param!r}: a message has {', '.join(_FIELDS)}",
                param,
                "unknown_parameter",
            )
    role = fields.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise invalid(
            f"{where}.role must be one of {', '.join(_ROLES)}, got {shorten(role)}"
            + (": tool calls are not supported yet" if role in ("tool", "function") else ""),
            f"{where}.role",
        )
    content = fields.get("content")
    if content is not None or role != "assistant":  # an answer may have had no text
        content = _read_content(content, f"{where}.content")
    read = {"role": _ROLES[role], "content": content}
    name = fields.get("name")
    if name is not None:
        if not isinstance(name, str):
            raise invalid(
                f"{where}.name must be a string, got {shorten(name)}",
                f"{where}.name",
                "invalid_type",
            )
        read["name"] = name
    return read


def _read_content(content: Any, where: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(
            f"{where} must be a string or a list of text parts, got {shorten(content)}",
            where,
            "invalid_type",
        )
    return [_read_part(part, f"{where}[{i}]") for i, part in enumerate(content)]


def _read_part(part: Any, where: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        raise invalid(
            f"{where} must be a part of type 'text', the only kind the model reads, got "
            f"{shorten(kind if isinstance(part, dict) else part)}",
            where,
        )
    fields = drop_idle_inside(part, PART, f"{where}.")
    if not isinstance(fields.get("text"), str):
        raise invalid(f"{where} must hold type and text (a string), got {shorten(part)}", where)
    for field in fields:
        if field not in ("type", "text"):
            param = f"{where}.{field[:80]}"
            raise invalid(
                f"unknown field {param!r}: a text part has type and text",
                param,
                "unknown_parameter",
            )
    return fields
