"""Tells a model of tools in its messages, where its chat template shows no tools.

The tools are described in a system message, which asks for calls as in the format "hermes"; calls
and results of the conversation become texts. So `tools` work with any model that has a chat
template, as well as it follows instructions. Deliberately does not know templates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_INTRODUCTION = (
    "You can call functions. They are described in JSON, one a line:\n{tools}\n\n"
    "To call one, answer with its name and its arguments as JSON between tags, and nothing else:\n"
    '<tool_call>\n{{"name": "<function name>", "arguments": {{<arguments>}}}}\n</tool_call>\n'
    "Answer in plain text where no function is needed."
)


def with_described_tools(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The messages with the tools in the first system message, which is added if there is none.

    Args:
      messages: checked ones; the arguments of tool calls are objects.
      tools: in OpenAI's format; none adds no system message.
    """
    written = [_written(message) for message in messages]
    if not tools:
        return written
    lines = "\n".join(_described(tool["function"]) for tool in tools)
    introduction = _INTRODUCTION.format(tools=lines)
    if written and written[0]["role"] == "system":
        own = _joined(written[0].get("content"))
        return [{**written[0], "content": f"{own}\n\n{introduction}"}, *written[1:]]
    return [{"role": "system", "content": introduction}, *written]


def _described(function: Mapping[str, Any]) -> str:
    """A function as the model reads it: `strict` is a word to the server."""
    told = {name: value for name, value in function.items() if name != "strict"}
    return json.dumps(told, ensure_ascii=False)


def _written(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with its calls, or as a result, in plain text."""
    if message["role"] == "tool":
        result = _joined(message.get("content"))
        return {"role": "user", "content": f"<tool_response>\n{result}\n</tool_response>"}
    calls = message.get("tool_calls")
    if not calls:
        return dict(message)
    texts = [_joined(message.get("content")), *map(_call, calls)]
    content = "\n".join(text for text in texts if text)
    return {name: each for name, each in message.items() if name != "tool_calls"} | {
        "content": content
    }


def _call(call: Mapping[str, Any]) -> str:
    function = call["function"]
    written = {"name": function["name"], "arguments": function["arguments"]}
    return f"<tool_call>\n{json.dumps(written, ensure_ascii=False)}\n</tool_call>"


def _joined(content: Any) -> str:
    """A content as one text."""
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content)
    return content or ""
