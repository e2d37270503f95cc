"""Reads the body of `/v1/responses`."""

from __future__ import annotations

from collections.abc import Mapping

from flaxen.router.request import Message, RoutedRequest, ToolCall
from flaxen.router.requests import fields
from flaxen.router.requests.fields import Json
from flaxen.router.requests.parts import read_content

_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
_RESULTS = {"function_call_output", "custom_tool_call_output"}
# Reasoning is the model's own, and no message; an item_reference is like previous_response_id.
_SILENT = {"reasoning", "item_reference"}


def read_responses(body: Json, headers: Mapping[str, str]) -> RoutedRequest:
    """What a router reads of a response. `instructions` are a system message, and calls that
    follow each other are one assistant message, as in a chat.

    Raises:
      ValueError: a field is not of its type; the message names it.
    """
    unread: set[str] = set()
    messages: list[Message] = []
    instructions = fields.text_field(body, "instructions")
    if instructions:
        messages.append(Message(role="system", text=instructions))
    if isinstance(body.get("input"), str):
        messages.append(Message(role="user", text=body["input"]))
    else:
        for index, item in enumerate(fields.object_list(body, "input")):
            _add(item, f"input[{index}]", messages, unread)
    text = fields.object_field(body, "text") or {}
    return RoutedRequest(
        api="responses",
        model=fields.text_field(body, "model"),
        messages=tuple(messages),
        tools=fields.tools(fields.object_list(body, "tools")),
        tool_choice=fields.tool_choice(body.get("tool_choice")),
        response_format=fields.object_field(text, "format"),
        max_tokens=fields.max_tokens(body, "max_output_tokens"),
        metadata=fields.metadata(body),
        headers=headers,
        previous_response_id=fields.text_field(body, "previous_response_id"),
        conversation_id=_conversation(body.get("conversation")),
        user=fields.text_field(body, "user"),
        unread=tuple(sorted(unread)),
    )


def _add(item: Json, name: str, messages: list[Message], unread: set[str]) -> None:
    """Adds the message of one item of input."""
    kind = fields.type_of(item, "message")
    if kind == "message":
        content = read_content(item.get("content"), f"{name}.content")
        unread |= content.unread
        messages.append(content.message(fields.role_of(item, name, unread)))
    elif kind in _CALLS:
        call = ToolCall(
            id=fields.text_field(item, "call_id"),
            name=fields.text_field(item, "name"),
            arguments=fields.text_field(item, _CALLS[kind]),
        )
        earlier: tuple[ToolCall, ...] = ()
        if messages and messages[-1].tool_calls and not messages[-1].text:
            earlier = messages.pop().tool_calls
        messages.append(Message(role="assistant", tool_calls=(*earlier, call)))
    elif kind in _RESULTS:
        content = read_content(item.get("output"), f"{name}.output")
        unread |= content.unread
        messages.append(content.message("tool", tool_call_id=fields.text_field(item, "call_id")))
    elif kind not in _SILENT:
        unread.add(kind)


def _conversation(value: object) -> str:
    """The id of a conversation, which may stand in an object."""
    if isinstance(value, str) or value is None:
        return value or ""
    return fields.text_field(fields.as_object(value, "conversation"), "id")
