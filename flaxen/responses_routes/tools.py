"""The tools and the tool choice of a response, as those of a chat: OpenAI writes them flatter here.

Deliberately does not know: what is checked of them, how an answer calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.responses_routes.bodies import ResponseBody
from flaxen.server.errors import invalid
from flaxen.server.schema import shorten


def nested_tool(tool: Any, where: str) -> Any:
    """{"type": "function", "name": …} as {"type": "function", "function": {"name": …}}.

    Raises:
      ApiError: 400, it is no function; `where` is its place in the body.
    """
    kind = tool.get("type") if isinstance(tool, dict) else tool
    if kind != "function":
        raise invalid(
            f"{where} of type {shorten(kind)} is refused: the server runs no tools of its own, so "
            "there are those of type 'function' only",
            f"{where}.type",
            "unsupported_value",
        )
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}


def nested_choice(choice: Any) -> Any:
    """A `tool_choice` as in a chat; what has no known form stays as it is."""
    if not isinstance(choice, Mapping):
        return choice
    if choice.get("type") == "function" and set(choice) == {"type", "name"}:
        return {"type": "function", "function": {"name": choice["name"]}}
    tools = choice.get("tools")
    if choice.get("type") == "allowed_tools" and isinstance(tools, list):
        nested = [nested_choice(tool) for tool in tools]
        return {
            "type": "allowed_tools",
            "allowed_tools": {"mode": choice.get("mode", "auto"), "tools": nested},
        }
    return choice


def flat(text: str) -> str:
    """What an error says about the tools of a chat, about those of a response."""
    return (
        text.replace("].function", "]")
        .replace("'function': {'name': …}", "'name': …")
        .replace("'allowed_tools': {'mode': …, 'tools': [{'type': 'function', 'name': …}]}",
                 "'mode': …, 'tools': [{'type': 'function', 'name': …}]")
        .replace("tool_choice.allowed_tools", "tool_choice.tools")
    )  # fmt: skip


def described(body: ResponseBody) -> list[dict[str, Any]]:
    """The tools as the response repeats them, with the fields that OpenAI's clients expect."""
    empty = {"description": None, "parameters": None, "strict": None}
    return [{**empty, **tool} for tool in body.tools or ()]
