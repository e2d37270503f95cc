"""Writes a response: from the engine's events to the events of a stream, and the response itself.

Deliberately does not know: HTTP, stores, where events go.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from flaxen.output_parsers import events as parsed
from flaxen.protocol import FinishReason, TokenEvent, TokenLogprobs
from flaxen.responses_routes.asking import View
from flaxen.responses_routes.items import new_id
from flaxen.responses_routes.output import Event, Output
from flaxen.responses_routes.reasoning_tokens import ReasoningTokens
from flaxen.responses_routes.tools import described, offered, places
from flaxen.server.errors import ApiError
from flaxen.server.generation.answer import Asked
from flaxen.server.generation.message import ShownEvents
from flaxen.server.usage import Usage


class ResponseWriter:
    """One response, from its beginning to its end. Final.

    Args:
      asked: the common fields of its body.
      view: the others.
      usage: counts its tokens; counted here.
    """

    def __init__(self, asked: Asked, view: View, usage: Usage) -> None:
        self.id = new_id("resp")
        self.status = "queued" if view.body.background else "in_progress"
        self._view = view
        self._usage = usage
        self._fields = _fields(self.id, asked, view)
        self._number = 0
        self._shown = ShownEvents(view.chat.message)
        self._custom = view.chat.message.custom
        self._places = places(offered(view.body.tools))
        self._output = Output(self.id, self._event)
        self._waiting: list[TokenLogprobs] = []  # of tokens whose text has not come yet
        self._reasoning = ReasoningTokens()
        self._changed: dict[str, Any] = {}  # fields that are known at the end

    def response(self) -> dict[str, Any]:
        """The response as it is so far."""
        usage = self._usage_json() if self._is_ended else None
        ends = {"status": self.status, "output": self._output.items(), "usage": usage}
        return self._fields | ends | self._changed

    @property
    def _is_ended(self) -> bool:
        return self.status not in ("queued", "in_progress")

    def begin(self) -> list[Event]:
        """The first events."""
        events = [self._event("response.created", response=self.response())]
        return [*events, self._event(f"response.{self.status}", response=self.response())]

    def push(self, event: TokenEvent) -> list[Event]:
        """The events that are certain with the next tokens; the last tokens end the response."""
        events = []
        if self.status == "queued":
            self.status = "in_progress"
            events.append(self._event("response.in_progress", response=self.response()))
        self._usage.count(event)
        self._waiting += event.logprobs or ()
        found = self._shown.push(event.text, is_last=event.finish is not None)
        self._reasoning.count(len(event.token_ids), found)
        for each in found:
            events += self._write(each)
        if event.finish is not None:
            is_cut = event.finish.reason is FinishReason.LENGTH
            status = "incomplete" if is_cut else "completed"
            events += self._output.end(status)
            if is_cut:
                self._changed["incomplete_details"] = {"reason": "max_output_tokens"}
            else:
                self._changed["completed_at"] = int(time.time())
            self.status = status
        return events

    def last(self) -> Event:
        """The event of the end; OpenAI has none for a response that was cancelled."""
        kind = "incomplete" if self.status == "cancelled" else self.status
        return self._event(f"response.{kind}", response=self.response())

    def fail(self, error: ApiError) -> list[Event]:
        """Ends the response by an error. Returns the events of its end but the last one."""
        code = "invalid_prompt" if error.status == 400 else "server_error"  # names of OpenAI's
        self._changed["error"] = {"code": code, "message": error.message}
        return self._stop("failed")

    def cancel(self) -> list[Event]:
        """Ends the response because its client wants so. Returns as `fail`."""
        return self._stop("cancelled")

    def _stop(self, status: str) -> list[Event]:
        events = self._output.end_item("incomplete")
        self.status = status
        return events

    def _write(self, event: parsed.Event) -> list[Event]:
        match event:
            case parsed.Content(text):
                return self._output.text(text, self._logprobs(self._take_waiting()))
            case parsed.Reasoning(text):
                self._take_waiting()
                return self._output.reasoning(text)
            case parsed.ToolCall():
                self._take_waiting()
                tool = self._places.get(event.name, {"name": event.name})
                return self._output.call(event, tool, is_custom=event.name in self._custom)

    def _take_waiting(self) -> list[TokenLogprobs]:
        taken, self._waiting = self._waiting, []
        return taken

    def _logprobs(self, entries: Sequence[TokenLogprobs]) -> Sequence[Any]:
        described = self._view.chat.described(entries)
        return () if described is None else list(described["content"])

    def _usage_json(self) -> dict[str, Any]:
        usage = self._usage
        return {
            "input_tokens": usage.num_prompt,
            # Nothing is written to a cache that is asked or paid for.
            "input_tokens_details": {"cached_tokens": usage.num_cached, "cache_write_tokens": 0},
            "output_tokens": usage.num_output,
            "output_tokens_details": {"reasoning_tokens": self._reasoning.num},
            "total_tokens": usage.num_prompt + usage.num_output,
        }

    def _event(self, kind: str, **fields: Any) -> Event:
        number, self._number = self._number, self._number + 1
        return {"type": kind, "sequence_number": number, **fields}


def _fields(response_id: str, asked: Asked, view: View) -> dict[str, Any]:
    """The fields that do not change."""
    body, sampling, text = view.body, view.sampling, view.body.text
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "status": None,
        "background": bool(body.background),
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "model": asked.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {
            "effort": None if body.reasoning is None else body.reasoning.effort,
            "summary": None,
        },
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": body.store is not False,
        "temperature": sampling.temperature,
        "text": {"format": (text and text.format) or {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto" if body.tool_choice is None else body.tool_choice,
        "tools": described(body.tools),
        "top_logprobs": body.top_logprobs or 0,
        "top_p": sampling.top_p,
        "truncation": body.truncation or "disabled",
        "usage": None,
        "user": body.user,
    }
