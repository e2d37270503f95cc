"""The blocks that a message's content is made of, checked one by one.

Deliberately does not know: what becomes of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flaxen.server.errors import invalid
from flaxen.server.generation.fields_without_effect import CACHE_CONTROL, Rule, drop_inside
from flaxen.server.schema import must_be

# The fields that a block must have, and their types.
_FIELDS: dict[str, dict[str, type]] = {
    "text": {"text": str},
    "thinking": {"thinking": str},
    "redacted_thinking": {"data": str},
    "tool_use": {"id": str, "name": str, "input": dict},
    "tool_result": {"tool_use_id": str},
}
_MORE_FIELDS = {"tool_result": ("content", "is_error")}
_JSON_TYPES: dict[type, str] = {str: "a string", dict: "an object"}
_WITHOUT_EFFECT: dict[str, dict[str, Rule]] = {
    "text": {"citations": Rule(lambda value: isinstance(value, list), "it must be a list")},
    "thinking": {"signature": Rule(lambda value: isinstance(value, str), "it must be a string")},
    "redacted_thinking": {},
    "tool_use": {
        "caller": Rule(
            lambda value: isinstance(value, dict) and value.get("type") == "direct",
            "this server runs no code that calls tools",
        )
    },
    "tool_result": {},
}


def read_blocks(content: Any, where: str, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """The blocks of a content; a string is one block of text.

    Args:
      content: as it was sent.
      where: its place, for errors.
      kinds: the kinds of blocks that may be there.

    Raises:
      ApiError: 400, it is neither a string nor a list of such blocks.
    """
    if isinstance(content, str):
        return [text_block(content)]
    if not isinstance(content, list):
        raise must_be(where, "a string or a list of blocks", content)
    return [_read_block(block, f"{where}[{i}]", kinds) for i, block in enumerate(content)]


def text_block(text: str) -> dict[str, Any]:
    """A block of text."""
    return {"type": "text", "text": text}


def result_text(block: dict[str, Any], where: str) -> dict[str, Any]:
    """The `content` of a tool's message; that of a tool that failed begins with "Error: "."""
    is_error = block.get("is_error")
    if is_error is not None and not isinstance(is_error, bool):
        param = f"{where}.is_error"
        raise must_be(param, "true or false", is_error)
    content = block.get("content")
    parts = read_blocks("" if content is None else content, f"{where}.content", ("text",))
    texts = [part["text"] for part in parts] or [""]
    if is_error:
        texts[0] = f"Error: {texts[0]}"
    return {"content": texts[0] if len(texts) == 1 else [text_block(text) for text in texts]}


def _read_block(block: Any, where: str, kinds: Sequence[str]) -> dict[str, Any]:
    kind = block.get("type") if isinstance(block, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise must_be(
            where,
            f"a block of type {' or '.join(kinds)}, which is what the model reads there",
            kind if isinstance(block, dict) else block,
        )
    rules = {"cache_control": CACHE_CONTROL, **_WITHOUT_EFFECT[kind]}
    fields = drop_inside(block, rules, f"{where}.")
    wanted = _FIELDS[kind]
    for name, json_type in wanted.items():
        if not isinstance(fields.get(name), json_type):
            param = f"{where}.{name}"
            raise must_be(param, _JSON_TYPES[json_type], fields.get(name))
    known = ("type", *wanted, *_MORE_FIELDS.get(kind, ()))
    for name in fields:
        if name not in known:
            param = f"{where}.{name[:80]}"
            raise invalid(
                f"unknown field {param!r}: a {kind} block has {', '.join(known)}",
                param,
                "unknown_parameter",
            )
    return fields
