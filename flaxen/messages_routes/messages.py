"""From Anthropic's messages, whose contents are blocks, to the messages of a chat.

Deliberately does not know: templates, which tools there are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flaxen.messages_routes.blocks import read_blocks, result_text, text_block
from flaxen.server.errors import invalid
from flaxen.server.schema import must_be

_ROLES = ("user", "assistant", "system")
# A coding agent's own note, first in its system prompt. It differs in each request, and before the
# rest of the prompt it would keep every prefix from being found in the cache.
_BILLING = "x-anthropic-billing-header:"


def chat_messages(system: Any, messages: list[Any]) -> list[dict[str, Any]]:
    """The messages of the chat: consecutive ones of one role are one, as in Anthropic's API, and
    each result of a tool is a message of its own.

    Raises:
      ApiError: 400, a message or block is invalid, or of a kind that the model can't read.
    """
    if not messages:
        raise invalid("messages must hold at least one message, got none", "messages")
    chat = _system(system)
    read = [_read(message, f"messages[{i}]") for i, message in enumerate(messages)]
    names: dict[str, str] = {}  # of the tools that were called, by the ids of the calls
    for role, group in itertools.groupby(read, key=lambda each: each[0]):
        blocks = [block for _, blocks in group for block in blocks]
        if role == "assistant":
            turn = _assistant(blocks)
            names |= {call["id"]: call["function"]["name"] for call in turn.get("tool_calls", ())}
            chat.append(turn)
        else:
            chat += _others(role, blocks, names)
    if chat[-1]["role"] == "assistant" and chat[-1].get("tool_calls"):
        raise invalid(
            "messages must not end with a tool_use block: the result of the tool comes next",
            "messages",
        )
    return chat


@dataclass(frozen=True)
class _Block:
    """A block, and its place for errors."""

    kind: str
    fields: dict[str, Any]
    where: str


def _system(system: Any) -> list[dict[str, Any]]:
    if system is None:
        return []
    blocks = read_blocks(system, "system", ("text",))
    texts = [block["text"] for block in blocks if not block["text"].startswith(_BILLING)]
    return [_message("system", texts)] if any(texts) else []


def _read(message: Any, where: str) -> tuple[str, list[_Block]]:
    if not isinstance(message, dict):
        raise must_be(where, "an object with role and content", message)
    for name in message:
        if name not in ("role", "content"):
            param = f"{where}.{name[:80]}"
            raise invalid(
                f"unknown field {param!r}: a message has role and content",
                param,
                "unknown_parameter",
            )
    role = message.get("role")
    if role not in _ROLES:
        raise must_be(f"{where}.role", f"one of {', '.join(_ROLES)}", role)
    kinds = {
        "user": ("text", "tool_result"),
        "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
        "system": ("text",),
    }[role]
    blocks = read_blocks(message.get("content"), f"{where}.content", kinds)
    return role, [
        _Block(block["type"], block, f"{where}.content[{i}]") for i, block in enumerate(blocks)
    ]


def _assistant(blocks: Iterable[_Block]) -> dict[str, Any]:
    """One message: its thoughts, its text and its calls. Redacted thinking is another server's
    secret, which no model here can read.
    """
    texts, thoughts, calls = [], [], []
    for block in blocks:
        if block.kind == "text":
            texts.append(block.fields["text"])
        elif block.kind == "thinking":
            thoughts.append(block.fields["thinking"])
        elif block.kind == "tool_use":
            function = {"name": block.fields["name"], "arguments": block.fields["input"]}
            calls.append({"id": block.fields["id"], "type": "function", "function": function})
    message = _message("assistant", texts)
    if thoughts:
        message["reasoning_content"] = "\n\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
        message["content"] = message["content"] or None
    return message


def _others(role: str, blocks: Iterable[_Block], names: dict[str, str]) -> list[dict[str, Any]]:
    """The messages of a user's turn, in order: the results of tools, and texts."""
    chat: list[dict[str, Any]] = []
    for is_result, group in itertools.groupby(blocks, lambda block: block.kind == "tool_result"):
        if not is_result:
            chat.append(_message(role, [block.fields["text"] for block in group]))
            continue
        for block in group:
            call_id = block.fields["tool_use_id"]
            if call_id not in names:
                param = f"{block.where}.tool_use_id"
                raise must_be(param, "the id of a tool_use block before it", call_id)
            content = result_text(block.fields, block.where)
            chat.append(
                {"role": "tool", "tool_call_id": call_id, "name": names[call_id], **content}
            )
    return chat or [_message(role, [])]


def _message(role: str, texts: list[str]) -> dict[str, Any]:
    """A message with one text, or with several in parts, which the template puts together."""
    if len(texts) < 2:
        return {"role": role, "content": "".join(texts)}
    return {"role": role, "content": [text_block(text) for text in texts]}
