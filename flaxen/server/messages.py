"""Chat messages as sent -> the plain messages that a chat template renders.

Knows: roles and content parts. Deliberately does not know templates or tokens.
"""

from __future__ import annotations

from typing import Any

from flaxen.server.errors import invalid
from flaxen.server.idle import MESSAGE, drop_idle
from flaxen.server.schema import shorten

# `developer` is OpenAI's newer name for `system`; templates know only the older one.
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_FIELDS = ("role", "content", "name")


def read_messages(messages: list[Any]) -> list[dict[str, Any]]:
    """Checks the messages; a content is left as it is, a string or a list of text parts.

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
    fields = drop_idle(message, MESSAGE, f"{where}.")
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
    _check_content(fields.get("content"), f"{where}.content")
    read = {"role": _ROLES[role], "content": fields["content"]}
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


def _check_content(content: Any, where: str) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise invalid(
            f"{where} must be a string or a list of text parts, got {shorten(content)}",
            where,
            "invalid_type",
        )
    for i, part in enumerate(content):
        _check_part(part, f"{where}[{i}]")


def _check_part(part: Any, where: str) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        raise invalid(
            f"{where} must be a part of type 'text', the only kind the model reads, got "
            f"{shorten(kind if isinstance(part, dict) else part)}",
            where,
        )
    if not isinstance(part.get("text"), str) or len(part) != 2:
        raise invalid(
            f"{where} must hold type and text (a string) only, got {shorten(part)}", where
        )
