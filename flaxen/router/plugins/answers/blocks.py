"""Answers of Anthropic's messages as the events of a stream, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from flaxen.router.plugins.reply import Json, to_json

# The types of blocks that come in pieces, with the fields that do and the types of the pieces.
_PIECES = {
    "text": {"text": "text_delta"},
    "thinking": {"thinking": "thinking_delta", "signature": "signature_delta"},
}
_CALLS = ("tool_use", "server_tool_use")


def block_events_of(answer: Json) -> Iterator[Json]:
    """The events of a whole answer."""
    ends = ("stop_reason", "stop_sequence")
    yield {"type": "message_start", "message": {**answer, "content": [], **dict.fromkeys(ends)}}
    for index, block in enumerate(answer["content"]):
        start, deltas = _pieces(block)
        yield {"type": "content_block_start", "index": index, "content_block": start}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {
        "type": "message_delta",
        "delta": {name: answer.get(name) for name in ends},
        "usage": answer.get("usage", {}),
    }
    yield {"type": "message_stop"}


def _pieces(block: Json) -> tuple[Json, list[Json]]:
    """How a block begins, and what follows."""
    if block["type"] in _CALLS:
        delta = {"type": "input_json_delta", "partial_json": to_json(block["input"])}
        return {**block, "input": {}}, [delta]
    pieces = {k: v for k, v in _PIECES.get(block["type"], {}).items() if k in block}
    deltas: list[Json] = [{"type": kind, name: block[name]} for name, kind in pieces.items()]
    return {**block, **dict.fromkeys(pieces, "")}, deltas


def answer_of_blocks(events: Iterable[Json]) -> dict[str, Any] | None:
    """The whole answer that events stand for; None if one is an error, or the last is missing."""
    answer: dict[str, Any] = {}
    blocks: dict[int, dict[str, Any]] = {}
    inputs: dict[int, str] = {}
    for event in events:
        match event["type"]:
            case "error":
                return None
            case "message_start":
                answer = dict(event["message"])
            case "content_block_start":
                blocks[event["index"]] = dict(event["content_block"])
            case "content_block_delta":
                _add(blocks[event["index"]], event, inputs)
            case "message_delta":
                usage = {**answer.get("usage", {}), **event.get("usage", {})}
                answer |= {**event["delta"], "usage": usage}
            case "message_stop":
                for index, text in inputs.items():
                    blocks[index]["input"] = json.loads(text or "{}")
                return {**answer, "content": [blocks[index] for index in sorted(blocks)]}
    return None


def _add(block: dict[str, Any], event: Json, inputs: dict[int, str]) -> None:
    """Adds a piece to a block; what a tool is given is read at the end."""
    for name, piece in event["delta"].items():
        if name == "partial_json":
            inputs[event["index"]] = inputs.get(event["index"], "") + piece
        elif name == "citation":
            block["citations"] = [*(block.get("citations") or ()), piece]
        elif name != "type":
            block[name] = block.get(name, "") + piece
