"""Bodies as JSON: what is not what a route reads is told so, and large ones hold up nobody."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest
from starlette.requests import Request

from flaxen.server.body import MAX_CONTAINERS, decode_json, read_json
from flaxen.server.config import ServerConfig
from flaxen.server.errors import ApiError
from flaxen.server.lanes import Lane
from tests.server.clients import make_app, post, run
from tests.server.fakes import FakeEngine

APP = make_app(FakeEngine())
PATHS = ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize")


def nested(depth: int) -> bytes:
    """A body of so many levels; its deepest one is a number."""
    return b'{"metadata": ' + b'{"a": ' * (depth - 1) + b"1" + b"}" * depth


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b"5", "invalid_type", "the body must be an object, got an integer: send a JSON object"),
        (b"5.0", "invalid_type", "the body must be an object, got a number"),
        (b"true", "invalid_type", "the body must be an object, got a boolean"),
        (b'"a"', "invalid_type", "the body must be an object, got a string"),
        (b"[1]", "invalid_type", "the body must be an object, got a list"),
        (b"null", "invalid_type", "the body must be an object, got null"),
        (nested(257), "nested_too_deep", "nested more than 256 deep, the most this server reads"),
        (b"[" * 257 + b"]" * 257, "nested_too_deep", "nested more than 256 deep"),
        (b"[" * 100_000 + b"]" * 100_000, "nested_too_deep", "nested more than 256 deep"),
        (b'{"prompt": ' + b"[" * 100_000, "nested_too_deep", "nested more than 256 deep"),
        (b'{"prompt": [' + b"9" * 5000 + b"]}", "invalid_value", "too many digits: at most 4300"),
    ],
    ids=lambda value: value[:12].decode() if isinstance(value, bytes) else None,
)
def test_what_is_json_is_not_called_otherwise(
    path: str, body: bytes, code: str, message: str
) -> None:
    answer = post(APP, path, body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, None)
    assert message in error["message"]
    assert "not valid JSON" not in error["message"]


@pytest.mark.parametrize("depth", [33, 128, 256])
def test_deep_values_are_read_wherever_they_may_stand(depth: int) -> None:
    deep = json.loads(nested(depth - 1))["metadata"]
    messages = [{"role": "user", "content": "Hi"}]
    for path, body in (
        ("/v1/completions", {"prompt": "a", "metadata": deep}),
        ("/v1/chat/completions", {"messages": messages, "metadata": deep}),
        ("/v1/chat/completions", {"messages": messages, "chat_template_kwargs": deep}),
    ):
        answer = post(APP, path, {"max_tokens": 1} | body)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("value", [b"[]", b"{}", b'["\\"[{", {}]'])
def test_too_many_lists_and_objects_are_refused(value: bytes) -> None:
    body = b'{"prompt": [' + b",".join([value] * MAX_CONTAINERS) + b"]}"
    error = post(APP, "/v1/completions", body).json()["error"]
    assert (error["code"], error["param"]) == ("too_many_values", None)
    assert "lists and objects, and this server reads at most 250000" in error["message"]


def test_brackets_in_texts_are_no_lists() -> None:
    text = '[{"\\' * MAX_CONTAINERS
    assert decode_json(json.dumps({"prompt": text}).encode()) == {"prompt": text}


@pytest.mark.parametrize("text", [b'"' + b'\\"[' * 500_000, b'"' + b"[" * 500_000 + b"\\"])
def test_a_text_without_an_end_is_looked_at_once(text: bytes) -> None:
    begin = time.monotonic()
    with pytest.raises(ApiError, match="not valid JSON: Unterminated string"):
        decode_json(b'{"prompt": ' + text)
    assert time.monotonic() - begin < 5  # twice as long a text, looked at from each quote: minutes


def request_of(body: bytes) -> Request:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", b"application/json")]
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


def test_large_bodies_take_turns_on_a_thread_of_their_own() -> None:
    async def work() -> None:
        lane, gate = Lane("the test", num_threads=1, max_waiting=0), threading.Event()
        large = json.dumps({"prompt": "a" * 100_000}).encode()
        assert len(await read_json(request_of(large), ServerConfig(), lane)) == 1
        busy = asyncio.create_task(lane.run(gate.wait))
        await asyncio.sleep(0)
        # The event loop reads no large one meanwhile, and small ones at once.
        with pytest.raises(ApiError, match="too many requests wait for the test"):
            await read_json(request_of(large), ServerConfig(), lane)
        assert await read_json(request_of(b"{}"), ServerConfig(), lane) == {}
        gate.set()
        await busy

    run(work())


def test_long_lists_of_tokens_are_read_and_written_as_short_ones_are() -> None:
    ids = list(b"ab" * 30_000)
    answer = post(APP, "/detokenize", {"tokens": ids})
    assert answer.json() == {"prompt": "ab" * 30_000, "content": "ab" * 30_000}
    body = {"prompt": "ab" * 30_000, "return_token_strs": True, "add_special_tokens": False}
    found = post(APP, "/tokenize", body).json()
    assert (found["tokens"], found["token_strs"]) == (ids, ["a", "b"] * 30_000)


def test_token_ids_that_are_sent_again_and_again_count_once() -> None:
    engine = FakeEngine()
    body = {"prompt": "a", "max_tokens": 1, "stop_token_ids": [7, 8.0, 7] * 100_000}
    assert post(make_app(engine), "/v1/completions", body).status_code == 200
    assert engine.requests[-1].sampling.stop_token_ids == (7, 8)
