"""Reads the body of `/v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Mapping

from flaxen.router.request import Message, RoutedRequest, ToolCall
from flaxen.router.requests import fields
from flaxen.router.requests.fields import Json
from flaxen.router.requests.parts import read_content


def read_chat(body: Json, headers: Mapping[str, str]) -> RoutedRequest:
    """What a router reads of a chat. The older `functions` and `function_call` count as tools.

    Raises:
      ValueError: a field is not of its type; the message names it.
    """
    unread: set[str] = set()
    choice = body.get("tool_choice")
    definitions = [*fields.object_list(body, "tools"), *fields.object_list(body, "functions")]
    return RoutedRequest(
        api="chat",
        model=fields.text_field(body, "model"),
        messages=tuple(
            _message(message, f"messages[{index}]", unread)
            for index, message in enumerate(fields.object_list(body, "messages"))
        ),
        tools=fields.tools(definitions),
        tool_choice=fields.tool_choice(body.get("function_call") if choice is None else choice),
        response_format=fields.object_field(body, "response_format"),
        max_tokens=fields.max_tokens(body, "max_completion_tokens", "max_tokens"),
        metadata=fields.metadata(body),
        headers=headers,
        user=fields.text_field(body, "user"),
        unread=tuple(sorted(unread)),
    )


def _message(message: Json, name: str, unread: set[str]) -> Message:
    role = fields.role_of(message, name, unread)
    content = read_content(message.get("content"), f"{name}.content")
    unread |= content.unread
    calls = fields.object_list(message, "tool_calls")
    if message.get("function_call") is not None:
        calls.append({"function": message["function_call"]})
    return content.message(
        role,
        tuple(_call(call, name) for call in calls),
        fields.text_field(message, "tool_call_id"),
    )


def _call(call: Json, name: str) -> ToolCall:
    inner = call.get("function", call.get("custom"))
    function = fields.as_object(inner, f"{name}.tool_calls[].function")
    return ToolCall(
        id=fields.text_field(call, "id"),
        name=fields.text_field(function, "name"),
        arguments=fields.text_field(function, "input" if "input" in function else "arguments"),
    )
