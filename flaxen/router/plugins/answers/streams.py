"""Answers of any API between their two forms: one JSON value, and server-sent events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from flaxen.router.plugins.answers.blocks import answer_of_blocks, block_events_of
from flaxen.router.plugins.answers.chunks import answer_of_chunks, chunks_of
from flaxen.router.plugins.answers.forms import is_finished
from flaxen.router.plugins.answers.response_events import response_events_of, response_of_events
from flaxen.router.plugins.reply import Json, Reply, to_json

_DONE = "[DONE]"


def wants_usage(api: str, body: Json) -> bool:
    """Whether the client of a request is told the tokens that its answer took: not of a stream of
    OpenAI's chats and completions, unless it asks."""
    options = body.get("stream_options")
    is_asked = isinstance(options, Mapping) and bool(options.get("include_usage"))
    return api not in ("chat", "completions") or not body.get("stream") or is_asked


def answer_reply(
    api: str, answer: Json, body: Json, headers: Mapping[str, str] | None = None
) -> Reply:
    """The reply with a whole answer, to the client of a request, streamed if its body says so."""
    headers = dict(headers or {})
    if not body.get("stream") or api == "embeddings":
        return Reply(body=to_json(answer).encode(), headers=headers)
    headers["cache-control"] = "no-cache"
    events = as_events(api, answer, with_usage=wants_usage(api, body))
    return Reply(body=events, media_type="text/event-stream", headers=headers)


def as_events(api: str, answer: Json, *, with_usage: bool = True) -> bytes:
    """A finished answer as the events of a stream, which is not for embeddings."""
    if api in ("messages", "responses"):
        events = block_events_of(answer) if api == "messages" else response_events_of(answer)
        return "".join(
            f"event: {event['type']}\ndata: {to_json(event)}\n\n" for event in events
        ).encode()
    chunks = [to_json(chunk) for chunk in chunks_of(api, answer, with_usage=with_usage)]
    return "".join(f"data: {chunk}\n\n" for chunk in (*chunks, _DONE)).encode()


def whole_answer(api: str, body: bytes, *, is_stream: bool) -> dict[str, Any] | None:
    """The whole answer that a model's server sent; None if it is not one of the API, or did not
    come to its end."""
    try:
        answer = _of_events(api, body) if is_stream else json.loads(body)
    except (ValueError, KeyError, TypeError, AttributeError):  # not in the form of the API
        return None
    return answer if is_finished(api, answer) else None


def _of_events(api: str, body: bytes) -> dict[str, Any] | None:
    events = list(_data(body))
    if api == "messages":
        return answer_of_blocks(map(json.loads, events))
    if api == "responses":
        return response_of_events(json.loads(each) for each in events if each != _DONE)
    if not events or events[-1] != _DONE:
        return None
    return answer_of_chunks(api, map(json.loads, events[:-1]))


def _data(body: bytes) -> Iterator[str]:
    """The data of events. Lines end as the standard says, so not at other characters of Unicode."""
    text = body.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    for event in text.split("\n\n"):
        lines = [
            line[5:].removeprefix(" ") for line in event.split("\n") if line.startswith("data:")
        ]
        if lines:
            yield "\n".join(lines)
