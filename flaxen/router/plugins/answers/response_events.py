"""Answers of OpenAI's responses as the events of a stream. (Back: the last event has the whole.)"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

from flaxen.router.plugins.reply import Json

# The types of calls, with the field that comes in pieces and how the names of its events begin.
_CALLS = {
    "function_call": ("arguments", "response.function_call_arguments"),
    "custom_tool_call": ("input", "response.custom_tool_call_input"),
    "mcp_call": ("arguments", "response.mcp_call_arguments"),
}
# The types of parts, with the field that comes in pieces.
_PARTS = {"output_text": "text", "reasoning_text": "text", "refusal": "refusal"}
_LAST = ("response.completed", "response.incomplete")


def response_events_of(response: Json) -> Iterator[Json]:
    """The numbered events of a response that has ended."""
    numbers = count()
    for event in _events(response):
        yield {**event, "sequence_number": next(numbers)}


def response_of_events(events: Iterable[Json]) -> dict[str, Any] | None:
    """The response that a stream ended with; None if it failed, or did not end."""
    last: Json | None = None
    for event in events:
        last = event
    return dict(last["response"]) if last and last.get("type") in _LAST else None


def _events(response: Json) -> Iterator[Json]:
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    begun |= {"completed_at": None, "incomplete_details": None}
    for kind in ("created", "in_progress"):
        yield {"type": f"response.{kind}", "response": begun}
    for index, item in enumerate(response["output"]):
        yield from _item(item, index)
    yield {"type": f"response.{response['status']}", "response": response}


def _item(item: Json, index: int) -> Iterator[Json]:
    """An item, from its beginning without contents to the whole."""
    kind, place = item["type"], {"output_index": index, "item_id": item.get("id", "")}
    emptied: Json = {
        name: [] for name in ("content", "summary") if isinstance(item.get(name), list)
    }
    started = {**item, **emptied}
    if "status" in item:
        started["status"] = "in_progress"
    if kind in _CALLS:
        started[_CALLS[kind][0]] = ""
    yield {"type": "response.output_item.added", "output_index": index, "item": started}
    for number, part in enumerate(item.get("summary") or ()):
        yield from _summary(part, {**place, "summary_index": number})
    for number, part in enumerate(item.get("content") or ()):
        yield from _part(part, {**place, "content_index": number})
    if kind in _CALLS:
        name, event = _CALLS[kind]
        whole = {name: item[name]} | ({"name": item["name"]} if name == "arguments" else {})
        yield {"type": f"{event}.delta", **place, "delta": item[name]}
        yield {"type": f"{event}.done", **place, **whole}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _part(part: Json, place: Json) -> Iterator[Json]:
    kind = part["type"]
    if kind not in _PARTS:
        yield {"type": "response.content_part.added", **place, "part": part}
    else:
        name = _PARTS[kind]
        logprobs = {"logprobs": part.get("logprobs") or []} if kind == "output_text" else {}
        empty: Json = {key: [] for key in ("annotations", "logprobs") if key in part}
        started = {**part, **empty, name: ""}
        yield {"type": "response.content_part.added", **place, "part": started}
        yield {"type": f"response.{kind}.delta", **place, "delta": part[name], **logprobs}
        yield {"type": f"response.{kind}.done", **place, name: part[name], **logprobs}
    yield {"type": "response.content_part.done", **place, "part": part}


def _summary(part: Json, place: Json) -> Iterator[Json]:
    begin = "response.reasoning_summary"
    yield {"type": f"{begin}_part.added", **place, "part": {**part, "text": ""}}
    yield {"type": f"{begin}_text.delta", **place, "delta": part["text"]}
    yield {"type": f"{begin}_text.done", **place, "text": part["text"]}
    yield {"type": f"{begin}_part.done", **place, "part": part}
