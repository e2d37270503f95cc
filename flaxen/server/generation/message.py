"""The message of an answer, whole or in deltas, from the generated text.

A whole message is its deltas put together, so that both are equal. Deliberately does not know:
formats of models, requests, logprobs.
"""

from __future__ import annotations

import random
import string
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flaxen.output_parsers.events import Content, Event, Reasoning, ToolCall
from flaxen.output_parsers.parser import Parser, Reader
from flaxen.server.generation.custom_tools import input_of

_SHORT_ID = 9


@dataclass(frozen=True, kw_only=True)
class MessageForm:
    """How the answers of one request are read, and what is shown of them."""

    readers: tuple[Reader, ...] = ()  # () leaves the whole text as content
    shows_reasoning: bool = True
    one_call: bool = False  # leaves further calls out
    custom: frozenset[str] = frozenset()  # the names of tools whose input is a text
    calls_functions: bool = False  # a call is `function_call`, which `tool_calls` replaced
    short_ids: bool = False  # some templates take ids of 9 letters and digits only


class ShownEvents:
    """What one sequence's answer shows, and in which order. Final.

    Args:
      form: how the answer is read, and what of it is shown. Each call that is shown has an id.
    """

    def __init__(self, form: MessageForm) -> None:
        self._form = form
        self._parser = Parser(form.readers)
        self.num_calls = 0  # so far

    def push(self, text: str, *, is_last: bool) -> list[Event]:
        """The events that are certain with the next piece of the text.

        Args:
          text: the piece, perhaps empty.
          is_last: no more comes: what was held back is given too.
        """
        events = self._parser.push(text)
        if is_last:
            events += self._parser.finish()
        return [shown for event in events for shown in self._shown(event)]

    def _shown(self, event: Event) -> Sequence[Event]:
        match event:
            case Reasoning():
                return [event] if self._form.shows_reasoning else []
            case ToolCall():
                if self.num_calls and self._form.one_call:
                    return []
                self.num_calls += 1
                return [replace(event, id=event.id or _new_id(is_short=self._form.short_ids))]
            case Content():
                return [event]


def joined(deltas: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The whole message of its deltas."""
    texts: dict[str, str] = {}
    called: dict[str, str] = {}
    calls: list[dict[str, Any]] = []
    for delta in deltas:
        for name, value in delta.items():
            if name == "function_call":
                called |= {field: called.get(field, "") + piece for field, piece in value.items()}
            elif name != "tool_calls":
                texts[name] = texts.get(name, "") + value
            elif "id" in value[0]:
                tool = value[0][value[0]["type"]]
                call = {key: each for key, each in value[0].items() if key != "index"}
                calls.append(call | {call["type"]: dict(tool)})
            else:
                kind = calls[-1]["type"]
                for field, piece in value[0][kind].items():
                    calls[-1][kind][field] += piece
    empty = None if calls or called or texts else ""
    message = {"role": "assistant", "content": texts.pop("content", empty), "refusal": None}
    made = {"tool_calls": calls, "function_call": called}
    return message | texts | {name: each for name, each in made.items() if each}


class Message:
    """The message of one sequence, as OpenAI's chats have it. Final."""

    def __init__(self, form: MessageForm) -> None:
        self._events = ShownEvents(form)
        self._form = form
        self._num_calls = 0

    def push(self, text: str, *, is_last: bool) -> list[dict[str, Any]]:
        """The deltas that are certain with the next piece of the text, as `ShownEvents.push`."""
        events = self._events.push(text, is_last=is_last)
        return [delta for event in events for delta in self._deltas(event)]

    def whole(self, text: str) -> dict[str, Any]:
        """The message of a text that has come at once. In place of `push`."""
        return joined(self.push(text, is_last=True))

    def finish_reason(self, reason: str | None) -> str | None:
        """The finish reason, by its name without calls: "stop" is "tool_calls" behind calls."""
        if reason != "stop" or not self._num_calls:
            return reason
        return "function_call" if self._form.calls_functions else "tool_calls"

    def _deltas(self, event: Event) -> Sequence[dict[str, Any]]:
        match event:
            case Content(text):
                return [{"content": text}]
            case Reasoning(text):
                # The first name is vLLM's, the second that of DeepSeek's API, which many copied.
                return [{"reasoning": text, "reasoning_content": text}]
            case ToolCall(name, arguments, call_id):
                index = self._num_calls
                self._num_calls += 1
                kind, field, text = "function", "arguments", arguments
                if self._form.calls_functions:
                    called = {"name": name, "arguments": ""}
                    return [{"function_call": called}, {"function_call": {field: text}}]
                if name in self._form.custom:
                    kind, field, text = "custom", "input", input_of(arguments)
                tool = {"name": name, field: ""}
                head = {"index": index, "id": call_id, "type": kind, kind: tool}
                rest = {"index": index, kind: {field: text}}
                return [{"tool_calls": [head]}, {"tool_calls": [rest]}]


def _new_id(*, is_short: bool) -> str:
    if is_short:
        return "".join(random.choices(string.ascii_letters + string.digits, k=_SHORT_ID))
    return f"call_{uuid.uuid4().hex[:24]}"
