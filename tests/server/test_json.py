"""Bodies that are JSON, and still not what a route reads: each is told what it is."""

from __future__ import annotations

import json

import pytest

from tests.server.clients import make_app, post
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
