"""From items to the messages of a chat, as the chat route takes them. Pure functions.

Deliberately does not know: bodies, templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flaxen.responses_routes.items import Item, text_of
from flaxen.responses_routes.summaries import read_summary
from flaxen.responses_routes.tools import full_name
from flaxen.server.generation.custom_tools import arguments_of

Message = dict[str, Any]
_SUMMARY = "Summary of the conversation so far:"


def to_messages(items: Sequence[Item], instructions: str | None) -> list[Message]:
    """The messages of a conversation. What an assistant thought, said and called before anybody
    else's turn is one message.

    Args:
      items: read ones.
      instructions: the first system message; those of the items that follow it at once join it,
          because many templates take one system message only.
    """
    messages: list[Message] = []
    for item in items:
        match item["type"]:
            case "message" if item["role"] == "assistant":
                turn = _turn(messages, "content", "tool_calls")
                turn["content"] = _content(item["content"])
            case "message":
                messages.append({"role": item["role"], "content": _content(item["content"])})
            case "reasoning":
                turn = _turn(messages, "reasoning_content", "content", "tool_calls")
                parts = item.get("content") or item.get("summary") or ()
                turn["reasoning_content"] = "\n".join(text_of(parts))
            case "compaction":
                summary = read_summary(item["encrypted_content"])
                messages.append({"role": "user", "content": f"{_SUMMARY}\n{summary}"})
            case "function_call" | "custom_tool_call" as kind:
                is_custom = kind == "custom_tool_call"
                function = {
                    "name": full_name(item["name"], item.get("namespace")),
                    "arguments": arguments_of(item["input"]) if is_custom else item["arguments"],
                }
                call = {"id": item["call_id"], "type": "function", "function": function}
                _turn(messages).setdefault("tool_calls", []).append(call)
            case "function_call_output" | "custom_tool_call_output":
                output = item["output"]
                content = output if isinstance(output, str) else _content(output)
                messages.append(
                    {"role": "tool", "tool_call_id": item["call_id"], "content": content}
                )
    return messages if instructions is None else _with_instructions(instructions, messages)


def _turn(messages: list[Message], *filled: str) -> Message:
    """The assistant's open turn, in which none of the fields is filled; else a new one."""
    last = messages[-1] if messages else None
    if last is None or last["role"] != "assistant" or any(last.get(name) for name in filled):
        last = {"role": "assistant", "content": ""}
        messages.append(last)
    return last


def _content(parts: Sequence[Item]) -> Any:
    texts = text_of(parts)
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]


def _with_instructions(instructions: str, messages: list[Message]) -> list[Message]:
    num_system = 0
    while num_system < len(messages) and messages[num_system]["role"] in ("system", "developer"):
        num_system += 1
    texts = [instructions]
    for message in messages[:num_system]:
        content = message["content"]
        texts += [content] if isinstance(content, str) else [part["text"] for part in content]
    return [{"role": "system", "content": "\n\n".join(texts)}, *messages[num_system:]]


def turn_starts(messages: Sequence[Message]) -> list[int]:
    """Where a conversation may begin when older turns are dropped: at each user's message. System
    messages before the first one always stay.
    """
    return [i for i, message in enumerate(messages) if message["role"] == "user"]
