"""Bad requests of every kind to a real server: each is refused, and no one else notices."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from tests.e2e.serving import CAPITAL, END_OF_TURN, MODEL, ONCE, Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BAD, MISSING = openai.BadRequestError, openai.NotFoundError
Row = tuple[dict[str, Any], type[openai.APIStatusError], str | None, str | None, str]

# What differs from a good request, and what must come back: class, code, param, words.
COMPLETIONS: list[Row] = [
    ({"model": "gpt-4"}, MISSING, "model_not_found", "model", "use smollm2-135m"),
    ({"prompt": ""}, BAD, "invalid_value", "prompt", "the prompt is empty"),
    ({"prompt": []}, BAD, "invalid_value", "prompt", "at least one prompt"),
    ({"prompt": [[]]}, BAD, "invalid_value", "prompt", "at least one token"),
    ({"prompt": 5}, BAD, "invalid_type", "prompt", "got 5"),
    ({"prompt": ["a", [1]]}, BAD, "invalid_type", "prompt", "a list of such lists"),
    ({"prompt": [49152]}, BAD, "invalid_value", "prompt", "[0, 49151], got 49152"),
    ({"prompt": [-1]}, BAD, "invalid_value", "prompt", "got -1"),
    ({"prompt": ["a"] * 129}, BAD, "invalid_value", "prompt", "at most 128 prompts"),
    ({"prompt": [[28] * 1024]}, BAD, "context_length_exceeded", "prompt", "is 1024"),
    ({"max_tokens": 1024}, BAD, "context_length_exceeded", "max_tokens", "ask for at most"),
    ({"max_tokens": 0}, BAD, "invalid_value", "max_tokens", "without echo"),
    ({"max_tokens": -1}, BAD, "invalid_value", "max_tokens", "at least 1"),
    ({"max_tokens": "many"}, BAD, "invalid_type", "max_tokens", "'many'"),
    ({"temperature": -0.1}, BAD, "invalid_value", "temperature", "at least 0"),
    ({"temperature": "hot"}, BAD, "invalid_type", "temperature", "valid number"),
    ({"top_p": -1}, BAD, "invalid_value", "top_p", "[0, 1]"),
    ({"top_p": 1.5}, BAD, "invalid_value", "top_p", "[0, 1]"),
    ({"top_k": -2}, BAD, "invalid_value", "top_k", "at least -1"),
    ({"min_p": 1.5}, BAD, "invalid_value", "min_p", "[0, 1]"),
    ({"n": 0}, BAD, "invalid_value", "n", "at least 1"),
    ({"n": 129}, BAD, "invalid_value", "n", "at most 128"),
    ({"n": 1, "best_of": 2}, BAD, "invalid_value", "best_of", "must equal n"),
    ({"presence_penalty": 2.1}, BAD, "invalid_value", "presence_penalty", "[-2, 2]"),
    ({"frequency_penalty": -2.1}, BAD, "invalid_value", "frequency_penalty", "[-2, 2]"),
    ({"repetition_penalty": 0}, BAD, "invalid_value", "repetition_penalty", "above 0"),
    ({"seed": 2**63}, BAD, "invalid_value", "seed", "whole number"),
    ({"logit_bias": {"49152": 1}}, BAD, "invalid_value", "logit_bias", "'49152'"),
    ({"logit_bias": {"1": 101}}, BAD, "invalid_value", "logit_bias", "[-100, 100]"),
    ({"allowed_token_ids": []}, BAD, "invalid_value", "allowed_token_ids", "at least one"),
    ({"allowed_token_ids": [49152]}, BAD, "invalid_value", "allowed_token_ids", "49152"),
    ({"bad_words": [""]}, BAD, "invalid_value", "bad_words", "not empty"),
    ({"bad_words": ["x"] * 65 + [f"{i}" for i in range(65)]}, BAD, "invalid_value", "bad_words",
     "at most 128 are supported"),
    ({"bad_words": ["a, b, c, d, e, f, g, h, i, j"]}, BAD, "invalid_value", "bad_words",
     "at most 16 are supported"),
    ({"min_tokens": 9, "max_tokens": 8}, BAD, "invalid_value", "min_tokens", "at most max_tokens"),
    ({"stop": ["a"] * 17}, BAD, "invalid_value", "stop", "at most 16 strings"),
    ({"stop_token_ids": list(range(65))}, BAD, "invalid_value", "stop_token_ids", "at most 64"),
    ({"logprobs": 21}, BAD, "invalid_value", "logprobs", "[0, 20]"),
    ({"prompt_logprobs": 21}, BAD, "invalid_value", "prompt_logprobs", "[0, 20]"),
    ({"prompt_logprobs": 1, "stream": True}, BAD, "invalid_value", "prompt_logprobs", "streamed"),
    ({"stream_options": {"include_usage": True}}, BAD, "invalid_value", "stream_options",
     "needs stream=true"),
    ({"suffix": "the end"}, BAD, "unsupported_parameter", "suffix", "not supported"),
    ({"guided": {}}, BAD, "unknown_parameter", "guided", "refuses instead"),
    ({"guided_json": {"uniqueItems": True}}, BAD, "invalid_value", "guided_json",
     'the keyword "uniqueItems" is not supported'),
    ({"prompt": ["a"] * 11, "n": 100}, BAD, "invalid_value", "n", "at most 1024 sequences"),
    ({"stop": "a" * 1001}, BAD, "invalid_value", "stop", "at most 1000"),
    ({"logit_bias": {f"{i}": 1 for i in range(1025)}}, BAD, "invalid_value", "logit_bias", "1024"),
    # These two can be told only when a token is to be chosen: the engine's step goes on.
    ({"allowed_token_ids": [7042], "bad_words": ["Paris"]}, BAD, "invalid_value",
     "allowed_token_ids", "forbid all of them"),
    ({"allowed_token_ids": [END_OF_TURN], "min_tokens": 1}, BAD, "invalid_value",
     "allowed_token_ids",
     "no token may be sampled"),
    ({"cache_salt": ""}, BAD, "invalid_value", "cache_salt", "must not be empty"),
]  # fmt: skip

CHATS: list[Row] = [
    ({"model": "gpt-4"}, MISSING, "model_not_found", "model", "use smollm2-135m"),
    ({"messages": []}, BAD, "invalid_value", "messages", "at least one message"),
    ({"messages": [{"role": "wizard", "content": "a"}]}, BAD, "invalid_value",
     "messages[0].role", "got 'wizard'"),
    ({"messages": [{"role": "user"}]}, BAD, "invalid_type", "messages[0].content", "got None"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, BAD,
     "invalid_value", "messages[0].content[0]", "got 'image_url'"),
    ({"messages": [{"role": "user", "content": "a " * 1100}]}, BAD, "context_length_exceeded",
     "messages", "shorten the prompt"),
    ({"max_tokens": 1, "max_completion_tokens": 2}, BAD, "invalid_value",
     "max_completion_tokens", "mean the same"),
    ({"max_completion_tokens": 5000}, BAD, "context_length_exceeded", "max_completion_tokens",
     "at most"),
    ({"top_logprobs": 3}, BAD, "invalid_value", "top_logprobs", "needs logprobs=true"),
    ({"logprobs": True, "top_logprobs": 21}, BAD, "invalid_value", "top_logprobs", "[0, 20]"),
    ({"logprobs": 5}, BAD, "invalid_type", "logprobs", "valid boolean"),
    ({"tools": [{"type": "function"}]}, BAD, "missing_required_parameter",
     "tools[0].function", "is required"),
    ({"response_format": {"type": "json"}}, BAD, "invalid_value", "response_format.type",
     "must be text, json_object, json_schema or structural_tag"),
    ({"chat_template_kwargs": {"bos_token": "x"}}, BAD, "invalid_value", "chat_template_kwargs",
     "may not set 'bos_token'"),
]  # fmt: skip


def refused(server: Server, route: str, row: Row) -> None:
    """Sends one bad request, and checks what comes back."""
    changes, kind, code, param, words = row
    good = {"prompt": "Hi"} if route == "completions" else {"messages": CAPITAL}
    body = {"model": MODEL, "max_tokens": 2, **good, **changes}
    if "max_completion_tokens" in changes and "max_tokens" not in changes:
        del body["max_tokens"]
    ask = server.openai.completions if route == "completions" else server.openai.chat.completions
    required = {name: body.pop(name) for name in ("model", *good)}
    with pytest.raises(kind) as caught:
        ask.create(**required, extra_body=body)
    error = caught.value
    assert (error.code, error.param, error.type) == (code, param, "invalid_request_error")
    assert words in error.message
    assert error.response.headers["x-request-id"]


@pytest.mark.parametrize("row", COMPLETIONS, ids=lambda row: "-".join(row[0]))
def test_a_bad_completion(server: Server, row: Row) -> None:
    refused(server, "completions", row)


@pytest.mark.parametrize("row", CHATS, ids=lambda row: "-".join(row[0]))
def test_a_bad_chat(server: Server, row: Row) -> None:
    refused(server, "chat", row)


JSON = {"content-type": "application/json"}
RAW: list[tuple[str, str, bytes, dict[str, str], int, str, str]] = [
    ("POST", "/v1/completions", b"", JSON, 400, "invalid_json", "Expecting value"),
    ("POST", "/v1/completions", b'{"prompt": ', JSON, 400, "invalid_json", "line 1"),
    ("POST", "/v1/completions", b"[]", JSON, 400, "invalid_type", "must be an object"),
    ("POST", "/v1/completions", b'{"prompt": "\xff"}', JSON, 400, "invalid_json", "UTF-8"),
    ("POST", "/v1/completions", b'{"prompt": "\\ud800"}', JSON, 400, "invalid_json", "surrogate"),
    ("POST", "/v1/completions", b'{"prompt": ' + b"[" * 9999, JSON, 400, "nested_too_deep",
     "nested more than 256 deep"),
    ("POST", "/v1/completions", b'{"prompt": "a", "top_p": NaN}', JSON, 400, "invalid_json", "NaN"),
    ("POST", "/v1/completions", b"{}", JSON, 400, "missing_required_parameter", "required"),
    ("POST", "/v1/chat/completions", b"{}", JSON, 400, "missing_required_parameter", "required"),
    ("POST", "/tokenize", b"{}", JSON, 400, "invalid_value", "either prompt or messages"),
    ("POST", "/detokenize", b'{"tokens": [49152]}', JSON, 400, "invalid_value", "49152"),
    ("POST", "/v1/completions", b"{}", {}, 415, "unsupported_media_type", "application/json"),
    ("POST", "/v1/completions", b"{}", {**JSON, "content-encoding": "gzip"}, 415,
     "unsupported_content_encoding", "uncompressed"),
    ("POST", "/v1/completions", b'"' + b"a" * 2**22 + b'"', JSON, 413, "body_too_large",
     "--max-body-size"),
    ("POST", "/v1/completions", b"{}", {**JSON, "x-request-id": "a b"}, 400, "invalid_value",
     "x-request-id"),
    ("GET", "/v1/completions", b"", {}, 405, "method_not_allowed", "takes POST only"),
    ("DELETE", "/v1/models/smollm2-135m", b"", {}, 405, "method_not_allowed",
     "takes GET, HEAD only"),
    ("POST", "/v1/moderations", b"{}", JSON, 404, "unknown_url", "no route"),
    ("GET", "/v1/models/gpt-4", b"", {}, 404, "model_not_found", "use smollm2-135m"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "headers", "status", "code", "words"), RAW)
def test_what_the_client_would_never_send(
    server: Server,
    method: str,
    path: str,
    body: bytes,
    headers: dict[str, str],
    status: int,
    code: str,
    words: str,
) -> None:
    answer = server.http.request(method, path, content=body, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), error
    assert words in error["message"]


def test_no_one_else_notices(server: Server) -> None:
    def good(_: int) -> str:
        return str(server.complete(ONCE, max_tokens=24).choices[0].text)

    def bad(job: tuple[str, Row]) -> None:
        refused(server, *job)

    expected = good(0)
    jobs = [*(("completions", row) for row in COMPLETIONS), *(("chat", row) for row in CHATS)]
    assert len(jobs) >= 40
    before = server.wait_until_idle()
    with ThreadPoolExecutor(12) as pool:
        texts = pool.map(good, range(4))
        list(pool.map(bad, jobs))
        assert list(texts) == [expected] * 4
    after = server.wait_until_idle()
    assert after["generation_tokens_total"] - before["generation_tokens_total"] == 4 * 24
    ended = {name: after[name] - before[name] for name in after if "request_success_total" in name}
    assert {name: count for name, count in ended.items() if count} == {
        "request_success_totallength": 4,
        "request_success_totalerror": 2,
    }
    assert server.http.get("/health").json() == {"status": "ok"}
