"""The output items of a response, and the events of its stream that tell of them.

One item is open at a time: text, reasoning and calls each close what came before. Deliberately does
not know: the engine, the response around the items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flaxen.output_parsers.events import ToolCall
from flaxen.responses_routes.items import Item, output_id
from flaxen.server.generation.custom_tools import input_of

Event = dict[str, Any]
MakeEvent = Callable[..., Event]  # from a type and its fields to an event with its number
# A call has a prefix of its id, a type of its item, a field for its arguments, and an event.
_FUNCTION = ("fc", "function_call", "arguments", "response.function_call_arguments")
_CUSTOM = ("ctc", "custom_tool_call", "input", "response.custom_tool_call_input")


@dataclass(kw_only=True)
class _Open:
    """The message or reasoning that is being written: it has one part."""

    item: Item  # without its content
    kind: str  # of the part: "output_text" or "reasoning_text"
    texts: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)

    def part(self) -> Item:
        """The part as it is so far."""
        part: Item = {"type": self.kind, "text": "".join(self.texts)}
        if self.kind == "output_text":
            part |= {"annotations": [], "logprobs": list(self.logprobs)}
        return part

    def whole(self, status: str) -> Item:
        """The item with its content."""
        return {**self.item, "status": status, "content": [self.part()]}


class Output:
    """The items of one response. Final.

    Args:
      response_id: the id of the response.
      make_event: numbers the events.
    """

    def __init__(self, response_id: str, make_event: MakeEvent) -> None:
        self._response_id = response_id
        self._make_event = make_event
        self._ended: list[Item] = []
        self._open: _Open | None = None

    def items(self) -> list[Item]:
        """The items so far."""
        return [*self._ended, *([] if self._open is None else [self._open.whole("in_progress")])]

    def text(self, delta: str, logprobs: Sequence[Any]) -> list[Event]:
        """Adds a piece of the answer's text, and the log-probabilities of its tokens."""
        return self._add("output_text", delta, logprobs)

    def reasoning(self, delta: str) -> list[Event]:
        """Adds a piece of reasoning."""
        return self._add("reasoning_text", delta, ())

    def call(self, call: ToolCall, tool: Mapping[str, str], *, is_custom: bool) -> list[Event]:
        """Adds a whole call.

        Args:
          call: it has an id.
          tool: the tool's name, and its namespace if it is in one.
          is_custom: it takes a text in place of arguments.
        """
        events = self.end_item("completed")
        prefix, kind, name, event = _CUSTOM if is_custom else _FUNCTION
        index, value = len(self._ended), input_of(call.arguments) if is_custom else call.arguments
        item: Item = {
            "id": self._new_id(prefix),
            "type": kind,
            "status": "in_progress",
            name: "",
            "call_id": call.id,
            **tool,
        }
        place = {"item_id": item["id"], "output_index": index}
        events.append(self._make_event("response.output_item.added", output_index=index, item=item))
        ended = {**item, "status": "completed", name: value}
        self._ended.append(ended)
        whole = {name: value} if is_custom else {"name": tool["name"], name: value}
        return [
            *events,
            self._make_event(f"{event}.delta", **place, delta=value),
            self._make_event(f"{event}.done", **place, **whole),
            self._make_event("response.output_item.done", output_index=index, item=ended),
        ]

    def end(self, status: str) -> list[Event]:
        """Ends the last item, as "completed" or "incomplete"; an answer of nothing is an empty
        message.
        """
        events = [] if self._open or self._ended else self.text("", ())
        return events + self.end_item(status)

    def end_item(self, status: str) -> list[Event]:
        """Ends the open item, if there is one."""
        if self._open is None:
            return []
        opened, self._open = self._open, None
        item, index, part = opened.whole(status), len(self._ended), opened.part()
        self._ended.append(item)
        place = self._place(item, index)
        more = {"logprobs": part["logprobs"]} if opened.kind == "output_text" else {}
        return [
            self._make_event(f"response.{opened.kind}.done", **place, text=part["text"], **more),
            self._make_event("response.content_part.done", **place, part=part),
            self._make_event("response.output_item.done", output_index=index, item=item),
        ]

    def _add(self, kind: str, delta: str, logprobs: Sequence[Any]) -> list[Event]:
        events: list[Event] = []
        if self._open is None or self._open.kind != kind:
            events = self.end_item("completed") + self._begin(kind)
        opened = self._open
        assert opened is not None, "it was begun"
        opened.texts.append(delta)
        opened.logprobs += logprobs
        if delta:
            more = {"logprobs": list(logprobs)} if kind == "output_text" else {}
            place = self._place(opened.item, len(self._ended))
            events.append(self._make_event(f"response.{kind}.delta", **place, delta=delta, **more))
        return events

    def _begin(self, kind: str) -> list[Event]:
        item: Item
        if kind == "output_text":
            item = {"id": self._new_id("msg"), "type": "message", "role": "assistant"}
        else:
            item = {"id": self._new_id("rs"), "type": "reasoning", "summary": []}
        self._open = _Open(item=item, kind=kind)
        index, empty = len(self._ended), {**item, "status": "in_progress", "content": []}
        return [
            self._make_event("response.output_item.added", output_index=index, item=empty),
            self._make_event(
                "response.content_part.added", **self._place(item, index), part=self._open.part()
            ),
        ]

    def _new_id(self, prefix: str) -> str:
        return output_id(prefix, self._response_id, len(self._ended))

    def _place(self, item: Item, index: int) -> dict[str, Any]:
        return {"item_id": item["id"], "output_index": index, "content_index": 0}
