"""Reads the body of Anthropic's `/v1/messages`."""

from __future__ import annotations

import json
from collections.abc import Mapping

from flaxen.router.request import NO_TOOL_CHOICE, Message, RoutedRequest, ToolCall
from flaxen.router.requests import fields
from flaxen.router.requests.fields import Json
from flaxen.router.requests.parts import Content, read_content

_CHOICES = {"auto": "auto", "any": "required", "tool": "required", "none": "none"}
_SILENT = {"thinking", "redacted_thinking"}  # the model's own, and no text of the conversation


def read_messages(body: Json, headers: Mapping[str, str]) -> RoutedRequest:
    """What a router reads of a message. The results of tools, which stand in a user's message,
    are messages of their own before it, as in a chat.

    Raises:
      ValueError: a field is not of its type; the message names it.
    """
    system = read_content(body.get("system"), "system")
    unread = system.unread
    messages = [] if system.is_empty else [system.message("system")]
    for index, message in enumerate(fields.object_list(body, "messages")):
        _add(message, f"messages[{index}]", messages, unread)
    choice = fields.object_field(body, "tool_choice")
    pairs = fields.metadata(body)
    return RoutedRequest(
        api="messages",
        model=fields.text_field(body, "model"),
        messages=tuple(messages),
        tools=fields.tools(fields.object_list(body, "tools")),
        tool_choice=_choice(choice),
        response_format=fields.object_field(
            fields.object_field(body, "output_config") or body, "format"
        ),
        max_tokens=fields.max_tokens(body, "max_tokens"),
        metadata=pairs,
        headers=headers,
        user=pairs.get("user_id", ""),
        unread=tuple(sorted(unread)),
    )


def _choice(choice: Json | None) -> str:
    if choice is None:
        return NO_TOOL_CHOICE
    kind = choice.get("type")
    if not isinstance(kind, str) or kind not in _CHOICES:
        raise ValueError(f"tool_choice.type must be one of {', '.join(_CHOICES)}, got {kind!r}")
    return _CHOICES[kind]


def _add(message: Json, name: str, messages: list[Message], unread: set[str]) -> None:
    """Adds the results of tools in one message, and the rest of it."""
    role = fields.role_of(message, name, unread)
    content = message.get("content")
    if isinstance(content, str):
        messages.append(Message(role=role, text=content))
        return
    rest, calls, num_before = Content(), [], len(messages)
    for index, block in enumerate(fields.object_list(message, "content")):
        where = f"{name}.content[{index}]"
        kind = fields.type_of(block, "text")
        if kind == "tool_use":
            calls.append(_call(block))
        elif kind == "tool_result":
            result = read_content(block.get("content"), f"{where}.content")
            unread |= result.unread
            messages.append(
                result.message("tool", tool_call_id=fields.text_field(block, "tool_use_id"))
            )
        elif kind == "document" and _text_of_document(block):
            rest.texts.append(_text_of_document(block))
        elif kind not in _SILENT:
            rest.add(block, where)
    unread |= rest.unread
    if calls or not rest.is_empty or len(messages) == num_before:
        messages.append(rest.message(role, tuple(calls)))


def _call(block: Json) -> ToolCall:
    return ToolCall(
        id=fields.text_field(block, "id"),
        name=fields.text_field(block, "name"),
        arguments=json.dumps(block.get("input", {}), ensure_ascii=False, separators=(",", ":")),
    )


def _text_of_document(block: Json) -> str:
    """The text of a document that is plain text; "" of a file."""
    source = block.get("source")
    if isinstance(source, Mapping) and source.get("type") == "text":
        return fields.text_field(source, "data")
    return ""
