"""The fields that the bodies of several APIs have alike, read strictly.

A field of another type is refused: a request whose messages can't be read would otherwise be
decided by an empty text, and nobody would know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flaxen.router.request import NO_TOOL_CHOICE, Tool

Json = Mapping[str, Any]
_MAX_METADATA = 32  # pairs, as in the public reference; so are the lengths, in bytes
_MAX_METADATA_KEY = 128
_MAX_METADATA_VALUE = 1024
_ROLES = ("user", "assistant", "system", "developer", "tool")
_TOOL_CHOICES = ("auto", "none", "required")


def text_field(body: Json, name: str) -> str:
    """A field of text; "" if it is absent or null.

    Raises:
      ValueError: it is something else.
    """
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, got {_shown(value)}")
    return value


def object_list(body: Json, name: str) -> list[Json]:
    """A field that is a list of objects; empty if it is absent or null.

    Raises:
      ValueError: it is something else.
    """
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list of objects, got {_shown(value)}")
    return [as_object(item, f"{name}[{index}]") for index, item in enumerate(value)]


def as_object(value: object, name: str) -> Json:
    """A value as an object of JSON.

    Raises:
      ValueError: it is none; the message calls it by its name.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be an object, got {_shown(value)}")
    return value


def object_field(body: Json, name: str) -> Json | None:
    """A field that is an object; None if it is absent or null.

    Raises:
      ValueError: it is something else.
    """
    return None if body.get(name) is None else as_object(body[name], name)


def type_of(item: Json, default: str) -> str:
    """The type of a part or an item, or what one without a type is.

    Raises:
      ValueError: it is no text.
    """
    return text_field(item, "type") or default


def role_of(message: Json, name: str, unread: set[str]) -> str:
    """The role of a message. One that no signal knows is added to what is unread.

    Raises:
      ValueError: it has none; `name` says where.
    """
    role = text_field(message, "role")
    if not role:
        raise ValueError(f"{name} must have a role, such as user")
    role = "tool" if role == "function" else role
    if role not in _ROLES:
        unread.add(f"role {role}")
    return role


def max_tokens(body: Json, *names: str) -> int | None:
    """The first of some fields that is given, a positive whole number; None if none is.

    Raises:
      ValueError: it is no such number.
    """
    for name in names:
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {_shown(value)}")
        return value
    return None


def metadata(body: Json) -> dict[str, str]:
    """The client's own pairs of texts; pairs whose value is null are left out.

    Raises:
      ValueError: a value is no text, or there is more than a router keeps.
    """
    pairs: dict[str, str] = {}
    for key, value in (object_field(body, "metadata") or {}).items():
        if value is None:
            continue
        if not isinstance(value, str):
            raise ValueError(f"metadata.{key} must be a text, got {_shown(value)}")
        if not 1 <= len(key.encode()) <= _MAX_METADATA_KEY:
            raise ValueError(
                f"a key of metadata has {len(key.encode())} bytes, and must have 1 to "
                f"{_MAX_METADATA_KEY}: {key[:40]!r}"
            )
        if len(value.encode()) > _MAX_METADATA_VALUE:
            raise ValueError(
                f"metadata.{key} has {len(value.encode())} bytes, and may have "
                f"{_MAX_METADATA_VALUE}: send a shorter text"
            )
        pairs[key] = value
    if len(pairs) > _MAX_METADATA:
        raise ValueError(f"metadata has {len(pairs)} pairs, and may have {_MAX_METADATA}")
    return pairs


def tools(definitions: Iterable[Json]) -> tuple[Tool, ...]:
    """The tools of a request. A definition has its name inside `function`, as in chats, or beside
    it; the API's own tools are named by their type."""
    found = []
    for definition in definitions:
        inner = definition.get("function")
        named = inner if isinstance(inner, Mapping) else definition
        name = named.get("name") or definition.get("type") or ""
        found.append(Tool(name=str(name), definition=definition))
    return tuple(found)


def tool_choice(value: object) -> str:
    """What `tool_choice` asks for: auto, none, required or nothing.

    Args:
      value: the field of chats or responses: a word, a tool by name, or a list of allowed tools
        with a mode.

    Raises:
      ValueError: it is none of these.
    """
    if value is None:
        return NO_TOOL_CHOICE
    if isinstance(value, Mapping):
        if value.get("type") != "allowed_tools":
            return "required"
        inner = value.get("allowed_tools")
        value = (inner if isinstance(inner, Mapping) else value).get("mode", "auto")
    if value not in _TOOL_CHOICES:
        raise ValueError(
            f"tool_choice must be {', '.join(_TOOL_CHOICES)} or a tool, got {_shown(value)}"
        )
    return str(value)


def _shown(value: object) -> str:
    """A value in an error, cut to what fits a line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
