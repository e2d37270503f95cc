"""The blocks of an answer, as the events of a stream; a whole answer is its events put together.

Deliberately does not know: requests, engines, how a model writes any of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from flaxen.output_parsers.events import Content, Event, Reasoning, ToolCall

_UNSIGNED = "unsigned"  # clients drop thoughts whose signature is empty, and send it back


class BlockEvents:
    """Makes the events content_block_start, _delta and _stop of what an answer shows."""

    def __init__(self) -> None:
        self._index = -1
        self._kind: str | None = None  # of the open block

    def push(self, events: Iterable[Event]) -> Iterator[dict[str, Any]]:
        """The stream's events for the next events of the answer."""
        for event in events:
            match event:
                case Content(text):
                    yield from self._open("text", {"text": ""})
                    yield self._delta({"type": "text_delta", "text": text})
                case Reasoning(text):
                    yield from self._open("thinking", {"thinking": "", "signature": ""})
                    yield self._delta({"type": "thinking_delta", "thinking": text})
                case ToolCall(name, arguments, call_id):
                    yield from self.close()
                    yield from self._open("tool_use", {"id": call_id, "name": name, "input": {}})
                    yield self._delta({"type": "input_json_delta", "partial_json": arguments})
                    yield from self.close()

    def close(self) -> Iterator[dict[str, Any]]:
        """Ends the open block, if there is one."""
        if self._kind == "thinking":
            yield self._delta({"type": "signature_delta", "signature": _UNSIGNED})
        if self._kind is not None:
            yield {"type": "content_block_stop", "index": self._index}
        self._kind = None

    def _open(self, kind: str, fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if self._kind == kind:
            return
        yield from self.close()
        self._index, self._kind = self._index + 1, kind
        block = {"type": kind, **fields}
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}


def whole_blocks(events: Iterable[Event]) -> list[dict[str, Any]]:
    """The blocks of a whole answer."""
    blocks: list[dict[str, Any]] = []
    writer = BlockEvents()
    for event in (*writer.push(events), *writer.close()):
        if event["type"] == "content_block_start":
            blocks.append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta":
            for name, piece in event["delta"].items():
                if name == "partial_json":
                    blocks[-1]["input"] = json.loads(piece)
                elif name != "type":
                    blocks[-1][name] += piece
    return blocks
