"""A client that reads slowly: its events come joined, and the answer is the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from flaxen.engine.unread import Unread
from flaxen.protocol import ReaderTooSlowError, Request, TokenEvent, TokenEvents
from flaxen.server.generation.engine_streams import EngineStreams
from flaxen.server.metrics import Metrics
from flaxen.server.request_log import Timing
from tests.server.clients import events, make_app, post, run
from tests.server.fakes import FakeEngine


class EngineAhead(FakeEngine):
    """The client reads the first events at once, and the rest when all is done."""

    def submit(self, request: Request) -> AsyncIterator[TokenEvent]:
        return _behind(FakeEngine.submit(self, request))


async def _behind(arriving: AsyncIterator[TokenEvent]) -> AsyncIterator[TokenEvent]:
    unread, num_read = Unread(num_apart=1), 0
    async for event in arriving:
        if num_read < 2:
            num_read += 1
            yield event
        else:
            unread.put(event)
    while (late := unread.take()) is not None:
        yield late


def joined(chunks: list[Any]) -> dict[int, dict[str, Any]]:
    """What the chunks of each choice say together."""
    found: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk["choices"] if chunk != "[DONE]" else ():
            whole = found.setdefault(
                choice["index"], {"text": "", "logprobs": [], "token_ids": [], "finish": None}
            )
            whole["text"] += choice.get("text") or choice.get("delta", {}).get("content") or ""
            whole["token_ids"] += choice.get("token_ids") or []
            logprobs = choice["logprobs"] or {}
            whole["logprobs"] += logprobs.get("content") or [
                list(each)
                for each in zip(*(logprobs.get(name, ()) for name in _COLUMNS), strict=True)
            ]
            whole["finish"] = choice["finish_reason"] or whole["finish"]
    return found


_COLUMNS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "hello", "logprobs": 2}),
        ("/v1/completions", {"prompt": ["hello", "you"], "logprobs": 2}),
        ("/v1/completions", {"prompt": "hello", "logprobs": 2, "echo": True, "n": 1}),
        (
            "/v1/chat/completions",
            {
                "messages": [{"role": "user", "content": "hi"}],
                "logprobs": True,
                "top_logprobs": 2,
            },
        ),
    ],
)
def test_the_answer_is_the_same(path: str, body: dict[str, Any]) -> None:
    body = {"n": 2, "max_tokens": 12, "return_token_ids": True, "stream": True} | body
    at_once, behind = (
        events(post(make_app(engine), path, body)) for engine in (FakeEngine(), EngineAhead())
    )
    assert len(behind) < len(at_once)
    assert joined(behind) == joined(at_once)


def test_one_who_is_too_far_behind_is_told() -> None:
    error = ReaderTooSlowError("7 bytes of this answer wait to be read")
    body = {"prompt": "hello", "stream": True}
    *_, last, done = events(post(make_app(FakeEngine(raises=error)), "/v1/completions", body))
    assert last["error"]["code"] == "reader_too_slow"
    assert last["error"]["message"] == str(error)
    assert done == "[DONE]"


class Closable(AsyncIterator[TokenEvent]):
    """A stream of no events that knows whether it was closed; no generator."""

    closed = False

    async def __anext__(self) -> TokenEvent:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize("num_requests", [1, 3])
def test_what_a_client_has_not_read_is_let_go_with_its_request(num_requests: int) -> None:
    streams: list[Closable] = []

    class Engine(FakeEngine):
        def submit(self, request: Request) -> TokenEvents:
            streams.append(Closable())
            return streams[-1]

    async def work() -> None:
        engine = Engine()
        requests = [Request(request_id=f"{i}", prompt_token_ids=(5,)) for i in range(num_requests)]
        await EngineStreams(engine, Metrics(engine, "fake"), requests, {}, Timing()).close()

    run(work())
    assert [stream.closed for stream in streams] == [True] * num_requests
