"""Every way to ask wrongly that we know: its status, code, param and message."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.server.clients import make_app, post
from tests.server.fakes import FakeEngine

COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hi"}]
APP = make_app(FakeEngine(max_model_len=64), max_n=4, max_stop=2, max_logprobs=5, max_prompts=3)

Row = tuple[str, dict[str, Any], str, str, str]  # path, body, code, param, message

COMPLETIONS: list[tuple[dict[str, Any], str, str, str]] = [
    ({}, "missing_required_parameter", "prompt", "'prompt' is required"),
    ({"prompt": None}, "invalid_type", "prompt", "must be a string, a list of strings"),
    ({"prompt": 5}, "invalid_type", "prompt", "got 5"),
    ({"prompt": {"a": 1}}, "invalid_type", "prompt", "a list of such lists"),
    ({"prompt": []}, "invalid_value", "prompt", "at least one prompt"),
    ({"prompt": ["a", [1]]}, "invalid_type", "prompt", "must be a string"),
    ({"prompt": ["a", 1]}, "invalid_type", "prompt", "must be a string"),
    ({"prompt": [1, "a"]}, "invalid_type", "prompt", "must be a string"),
    ({"prompt": [True]}, "invalid_type", "prompt", "must be a string"),
    ({"prompt": [1.5]}, "invalid_type", "prompt", "must be a string"),
    ({"prompt": [[]]}, "invalid_value", "prompt", "prompt is empty"),
    ({"prompt": ["a"] * 4}, "invalid_value", "prompt", "at most 3 prompts .* got 4"),
    ({"prompt": [258]}, "invalid_value", "prompt", r"ids in \[0, 257\], got 258"),
    ({"prompt": [-1]}, "invalid_value", "prompt", "got -1"),
    ({"prompt": [10**400]}, "invalid_value", "prompt", "got 1000.*\\.\\.\\."),
    ({"prompt": "", "add_special_tokens": False}, "invalid_value", "prompt", "prompt is empty"),
    ({"prompt": "a" * 63}, "context_length_exceeded", "prompt", "is 64 tokens.*prompt has 64"),
    ({"prompt": "a", "max_tokens": 63}, "context_length_exceeded", "max_tokens", "at most 62"),
    ({"prompt": "a", "max_tokens": 0}, "invalid_value", "max_tokens", "at least 1 without echo"),
    ({"prompt": "a", "max_tokens": -1}, "invalid_value", "max_tokens", "at least 1, got -1"),
    ({"prompt": "a", "max_tokens": 1, "max_completion_tokens": 2}, "invalid_value",
     "max_completion_tokens", "mean the same and differ"),
    ({"prompt": "a", "max_completion_tokens": 0}, "invalid_value", "max_completion_tokens",
     "at least 1 without echo"),
    ({"prompt": "a", "max_completion_tokens": 63}, "context_length_exceeded",
     "max_completion_tokens", "at most 62"),
    ({"prompt": "a", "max_tokens": "5"}, "invalid_type", "max_tokens", "valid integer, got '5'"),
    ({"prompt": "a", "max_tokens": True}, "invalid_type", "max_tokens", "valid integer, got True"),
    ({"prompt": "a", "max_tokens": 1.5}, "invalid_type", "max_tokens", "valid integer, got 1.5"),
    ({"prompt": "a", "temperature": -1}, "invalid_value", "temperature", "at least 0, got -1"),
    ({"prompt": "a", "temperature": "hot"}, "invalid_type", "temperature", "number, got 'hot'"),
    ({"prompt": "a", "temperature": 10**400}, "invalid_type", "temperature", "valid number"),
    ({"prompt": "a", "top_p": -0.1}, "invalid_value", "top_p", r"in \[0, 1\], got -0.1"),
    ({"prompt": "a", "top_p": 1.1}, "invalid_value", "top_p", r"in \[0, 1\], got 1.1"),
    ({"prompt": "a", "top_k": -2}, "invalid_value", "top_k", "at least -1, got -2"),
    ({"prompt": "a", "min_p": 2}, "invalid_value", "min_p", "got 2"),
    ({"prompt": "a", "n": 0}, "invalid_value", "n", "at least 1, got 0"),
    ({"prompt": "a", "n": 5}, "invalid_value", "n", "at most 4 on this server, got 5"),
    ({"prompt": "a", "n": 2, "best_of": 3}, "invalid_value", "best_of", r"equal n \(2\), got 3"),
    ({"prompt": "a", "presence_penalty": 3}, "invalid_value", "presence_penalty", "got 3"),
    ({"prompt": "a", "frequency_penalty": -3}, "invalid_value", "frequency_penalty", "got -3"),
    ({"prompt": "a", "repetition_penalty": 0}, "invalid_value", "repetition_penalty", "above 0"),
    ({"prompt": "a", "repetition_penalty": -1}, "invalid_value", "repetition_penalty", "above 0"),
    ({"prompt": "a", "seed": 2**63}, "invalid_value", "seed", "seed must be a whole number in"),
    ({"prompt": "a", "stop": ["a", "b", "c"]}, "invalid_value", "stop", "at most 2 .* got 3"),
    ({"prompt": "a", "stop": [1]}, "invalid_type", "stop[0]", "valid string, got 1"),
    ({"prompt": "a", "stop": 1}, "invalid_type", "stop", "valid list, got 1"),
    ({"prompt": "a", "stop_token_ids": [999]}, "invalid_value", "stop_token_ids", "got 999"),
    ({"prompt": "a", "allowed_token_ids": []}, "invalid_value", "allowed_token_ids", "at least"),
    ({"prompt": "a", "allowed_token_ids": [-5]}, "invalid_value", "allowed_token_ids", "got -5"),
    ({"prompt": "a", "bad_words": [""]}, "invalid_value", "bad_words", "not empty"),
    ({"prompt": "a", "min_tokens": 9, "max_tokens": 5}, "invalid_value", "min_tokens", "at most"),
    ({"prompt": "a", "logit_bias": {"x": 1}}, "invalid_value", "logit_bias", r"keys \['x'\]"),
    ({"prompt": "a", "logit_bias": {"999": 1}}, "invalid_value", "logit_bias", r"keys \['999'\]"),
    ({"prompt": "a", "logit_bias": {"-1": 1}}, "invalid_value", "logit_bias", r"keys \['-1'\]"),
    ({"prompt": "a", "logit_bias": {"1" * 5000: 1}}, "invalid_value", "logit_bias", r"keys \['111"),
    ({"prompt": "a", "logit_bias": {"1": 101}}, "invalid_value", "logit_bias", r"\[-100, 100\]"),
    ({"prompt": "a", "logit_bias": {"1": "x"}}, "invalid_type", "logit_bias.1", "valid number"),
    ({"prompt": "a", "logit_bias": [1]}, "invalid_type", "logit_bias", "valid dictionary"),
    ({"prompt": "a", "logprobs": 6}, "invalid_value", "logprobs", r"in \[0, 5\]"),
    ({"prompt": "a", "logprobs": True}, "invalid_type", "logprobs", "valid integer"),
    ({"prompt": "a", "prompt_logprobs": -1}, "invalid_value", "prompt_logprobs", r"in \[0, 5\]"),
    ({"prompt": "a", "stream": True, "prompt_logprobs": 1}, "invalid_value", "prompt_logprobs",
     "can't be streamed"),
    ({"prompt": "a", "stream": True, "n": 2, "echo": True, "logprobs": 1}, "invalid_value",
     "stream", "can't be streamed"),
    ({"prompt": "a", "stream": "yes"}, "invalid_type", "stream", "valid boolean, got 'yes'"),
    ({"prompt": "a", "stream_options": {"include_usage": None}}, "invalid_value",
     "stream_options", "needs stream=true"),
    ({"prompt": "a", "logit_bias": {"b": 1, "5": 1, "258": 1}}, "invalid_value", "logit_bias",
     r"\[0, 257\].* has 258 tokens.*\['b', '258'\]"),
    ({"prompt": "a", "stream": True, "stream_options": {"usage": True}}, "unknown_parameter",
     "stream_options.usage", "unknown field"),
    ({"prompt": "a", "stream": True, "stream_options": {"include_obfuscation": True}},
     "unsupported_parameter", "stream_options.include_obfuscation", "does not pad"),
    ({"prompt": "a", "suffix": "end"}, "unsupported_parameter", "suffix", "not supported"),
    ({"prompt": "a", "store": True}, "unsupported_parameter", "store", "stores no"),
    ({"prompt": "a", "store": 0}, "unsupported_parameter", "store", "stores no"),
    ({"prompt": "a", "service_tier": "flex"}, "unsupported_parameter", "service_tier", "one tier"),
    ({"prompt": "a", "user": 5}, "unsupported_parameter", "user", "must be a string"),
    ({"prompt": "a", "metadata": "x"}, "unsupported_parameter", "metadata", "must be an object"),
    ({"prompt": "a", "cache_salt": ""}, "invalid_value", "cache_salt", "must not be empty"),
    ({"prompt": "a", "guided": {}}, "unknown_parameter", "guided", "have to ignore"),
    ({"prompt": "a", "messages": HELLO}, "unknown_parameter", "messages", "unknown field"),
    ({"prompt": "a", "x" * 500: 1}, "unknown_parameter", "x" * 80, "unknown field"),
    ({"prompt": "a", "model": 5}, "invalid_type", "model", "valid string, got 5"),
]  # fmt: skip

CHATS: list[tuple[dict[str, Any], str, str, str]] = [
    ({}, "missing_required_parameter", "messages", "'messages' is required"),
    ({"messages": "Hi"}, "invalid_type", "messages", "valid list"),
    ({"messages": []}, "invalid_value", "messages", "at least one message"),
    ({"messages": ["Hi"]}, "invalid_type", "messages[0]", "object with role and content"),
    ({"messages": [{"content": "a"}]}, "invalid_value", "messages[0].role", "one of .* got None"),
    ({"messages": [{"role": "critic", "content": "a"}]}, "invalid_value", "messages[0].role",
     "assistant, tool, got 'critic'"),
    ({"messages": [{"role": {}, "content": "a"}]}, "invalid_value", "messages[0].role", "got {}"),
    ({"messages": [{"role": "user"}]}, "invalid_type", "messages[0].content", "got None"),
    ({"messages": [{"role": "user", "content": 5}]}, "invalid_type", "messages[0].content",
     "got 5"),
    ({"messages": [{"role": "user", "content": ["a"]}]}, "invalid_value",
     "messages[0].content[0]", "a part of type 'text'"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
     "invalid_value", "messages[0].content[0]", "got 'image_url'"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "invalid_value",
     "messages[0].content[0]", "text \\(a string\\)"),
    ({"messages": [{"role": "user", "content": "a", "name": 5}]}, "invalid_type",
     "messages[0].name", "must be a string"),
    ({"messages": [{"role": "user", "content": "a", "colour": 5}]}, "unknown_parameter",
     "messages[0].colour", "unknown field"),
    ({"messages": [{"role": "assistant", "content": "a", "tool_calls": [{}]}]},
     "invalid_value", "messages[0].tool_calls", "must be an object with a name"),
    ({"messages": [{"role": "user", "content": "refuse"}]}, "invalid_value", "messages",
     "no such talk"),
    ({"messages": [{"role": "user", "content": "a" * 64}]}, "context_length_exceeded", "messages",
     "shorten the prompt"),
    ({"messages": HELLO, "max_completion_tokens": 64}, "context_length_exceeded",
     "max_completion_tokens", "ask for at most"),
    ({"messages": HELLO, "max_tokens": 64}, "context_length_exceeded", "max_tokens",
     "ask for at most"),
    ({"messages": HELLO, "max_completion_tokens": 0}, "invalid_value", "max_completion_tokens",
     "at least 1, got 0"),
    ({"messages": HELLO, "max_tokens": 1, "max_completion_tokens": 2}, "invalid_value",
     "max_completion_tokens", "mean the same and differ"),
    ({"messages": HELLO, "top_logprobs": 1}, "invalid_value", "top_logprobs", "needs logprobs"),
    ({"messages": HELLO, "logprobs": True, "top_logprobs": 6}, "invalid_value", "top_logprobs",
     r"in \[0, 5\]"),
    ({"messages": HELLO, "logprobs": 1}, "invalid_type", "logprobs", "valid boolean, got 1"),
    ({"messages": HELLO, "stream": True, "prompt_logprobs": 1}, "invalid_value",
     "prompt_logprobs", "can't be streamed"),
    ({"messages": HELLO, "functions": [{}]}, "missing_required_parameter", "functions[0].name",
     "required"),
    ({"messages": HELLO, "response_format": {"type": "json"}}, "invalid_value",
     "response_format.type", "must be text, json_object, json_schema or structural_tag"),
    ({"messages": HELLO, "modalities": ["audio"]}, "unsupported_parameter", "modalities", "text"),
    ({"messages": HELLO, "audio": []}, "unsupported_parameter", "audio", "an object"),
    ({"messages": HELLO, "prediction": ""}, "invalid_type", "prediction", "an object"),
    ({"messages": HELLO, "reasoning_effort": "low"}, "unsupported_parameter", "reasoning_effort",
     "has no variable for it"),
    ({"messages": HELLO, "chat_template": "x"}, "unknown_parameter", "chat_template", "unknown"),
    ({"messages": HELLO, "chat_template_kwargs": {"messages": []}}, "invalid_value",
     "chat_template_kwargs", "may not set 'messages'"),
    ({"messages": HELLO, "chat_template_kwargs": {"self": 1}}, "invalid_value",
     "chat_template_kwargs", "may not set 'self'"),
    ({"messages": HELLO, "prompt": "x"}, "unknown_parameter", "prompt", "unknown field"),
]  # fmt: skip

OTHERS: list[Row] = [
    ("/tokenize", {}, "invalid_value", "prompt", "either prompt or messages"),
    ("/tokenize", {"prompt": "a", "messages": HELLO}, "invalid_value", "prompt", "not both"),
    ("/tokenize", {"prompt": 5}, "invalid_type", "prompt", "valid string"),
    ("/tokenize", {"prompt": "a", "add_generation_prompt": True}, "invalid_value",
     "add_generation_prompt", "needs messages"),
    ("/tokenize", {"messages": HELLO, "tools": [{}]}, "missing_required_parameter",
     "tools[0].type", "is required"),
    ("/detokenize", {}, "missing_required_parameter", "tokens", "is required"),
    ("/detokenize", {"tokens": [258]}, "invalid_value", "tokens", "got 258"),
    ("/detokenize", {"tokens": ["a"]}, "invalid_type", "tokens[0]", "valid integer"),
]  # fmt: skip

ROWS: list[Row] = [
    *((COMPLETION, *row) for row in COMPLETIONS),
    *((CHAT, *row) for row in CHATS),
    *OTHERS,
]


@pytest.mark.parametrize(("path", "body", "code", "param", "message"), ROWS)
def test_bad_request(path: str, body: dict[str, Any], code: str, param: str, message: str) -> None:
    answer = post(APP, path, body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", code), error
    assert error["param"] == param, error
    assert re.search(message, error["message"]), error
    assert len(error["message"]) < 700


BODIES: list[tuple[bytes, str]] = [
    (b"", "Expecting value at line 1"),
    (b"{", "Expecting property name"),
    (b'{"prompt": "a", "temperature": NaN}', "NaN is not a JSON number"),
    (b'{"prompt": "a", "temperature": -Infinity}', "-Infinity is not a JSON number"),
    (b'{"prompt": "\xff"}', "not UTF-8 at byte 12"),
    (b'{"prompt": "\\ud800"}', "half of a surrogate pair"),
    (b'{"prompt": "a", "stop": "\\uDC00\\uD800"}', "half of a surrogate pair"),
    (b'{"prompt": "a", "\\udfff": 1}', "half of a surrogate pair"),
    (b'{"prompt": "a"} x', "Extra data"),
    (b"\xef\xbb\xbf{}", "BOM"),
]


@pytest.mark.parametrize(("body", "message"), BODIES)
def test_bad_json(body: bytes, message: str) -> None:
    for path in (COMPLETION, CHAT, "/tokenize", "/detokenize"):
        answer = post(APP, path, body)
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["code"] == "invalid_json"
        assert message in error["message"]


def test_a_number_beyond_floats_is_refused() -> None:
    error = post(APP, COMPLETION, b'{"prompt": "a", "temperature": 1e999}').json()["error"]
    assert (error["param"], error["code"]) == ("temperature", "invalid_value")
    assert "got inf" in error["message"]


def test_a_whole_surrogate_pair_is_text() -> None:
    answer = post(APP, "/tokenize", b'{"prompt": "\\ud83d\\ude00", "add_special_tokens": false}')
    assert answer.json()["tokens"] == list("😀".encode())


def test_what_the_engine_refuses_is_the_clients_fault() -> None:
    answer = post(make_app(max_n=100), COMPLETION, {"prompt": "a", "n": 65})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "the engine runs at most 64 sequences of a request"


@pytest.mark.parametrize(
    ("path", "body", "product"),
    [
        (COMPLETION, {"prompt": ["a", "b", "c"], "n": 2}, "3 x 2"),
        (COMPLETION, {"prompt": ["a", "b", "c"], "n": 2, "stream": True}, "3 x 2"),
        (CHAT, {"messages": HELLO, "n": 6}, "1 x 6"),
    ],
)
def test_more_sequences_than_can_ever_run_are_a_400(
    path: str, body: dict[str, Any], product: str
) -> None:
    engine = FakeEngine()
    answer = post(make_app(engine, max_sequences=5), path, body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_value", "n")
    assert error["message"].startswith("prompts x n must be at most 5 sequences on this server")
    assert f"got {product}: send several requests" in error["message"]
    assert engine.requests == []
    assert post(make_app(engine, max_sequences=6), path, body).status_code == 200
