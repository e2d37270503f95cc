"""`functions` and `function_call` of chats, which OpenAI has replaced by tools: read as tools.

Deliberately does not know: how an answer's call is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flaxen.server.errors import invalid
from flaxen.server.generation.bodies import ChatBody, ToolBody
from flaxen.server.generation.tools import ToolUse, read_tools
from flaxen.server.schema import must_be


def read_tools_or_functions(body: ChatBody) -> ToolUse:
    """What the answer may or must call.

    Raises:
      ApiError: 400, both are offered; or as in `read_tools`.
    """
    choice = body.function_call
    names = [function.name for function in body.functions or ()]
    chosen = choice.get("name") if isinstance(choice, Mapping) else None
    if chosen not in names and choice not in (None, "none", "auto"):
        known = ", ".join(names[:20]) or "there are none"
        raise must_be(
            "function_call",
            f"'none', 'auto' or {{'name': …}} of one of functions ({known})",
            choice,
        )
    if not names or choice == "none":
        return read_tools(
            body.tools, body.tool_choice, parallel_tool_calls=body.parallel_tool_calls
        )
    if body.tools or len(set(names)) < len(names):
        raise invalid(
            "functions must have different names, and stand without tools, which replaced them",
            "functions",
        )
    tools = [ToolBody(type="function", function=each) for each in body.functions or ()]
    named = None if chosen is None else {"type": "function", "function": {"name": chosen}}
    return replace(read_tools(tools, named, parallel_tool_calls=False), are_functions=True)


def as_tool_messages(messages: list[Any]) -> list[Any]:
    """Messages whose calls and results of functions are those of tools; others stay as they are."""
    made: list[Any] = []
    last_id: dict[str, str] = {}
    for index, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role == "function":
            message = {**message, "role": "tool", **last_id}
        elif role == "assistant" and message.get("function_call") and not message.get("tool_calls"):
            call_id = f"call{index:05d}"  # 9 letters and digits: some templates take no others
            last_id = {"tool_call_id": call_id}
            call = {"id": call_id, "type": "function", "function": message["function_call"]}
            message = {**message, "function_call": None, "tool_calls": [call]}
        made.append(message)
    return made
