"""Token ids of requests, and tokens in, tokens out: what one route says, the other computes."""

from __future__ import annotations

import re
from typing import Any

import pytest

from flaxen.protocol import Request
from flaxen.server.app import create_app
from flaxen.server.config import ServerConfig
from flaxen.token_routes.routes import ROUTES
from tests.server.clients import events, post
from tests.server.fakes import FakeEngine, byte_tokenizer

COMPLETION, CHAT, GENERATE = "/v1/completions", "/v1/chat/completions", "/inference/v1/generate"
HELLO = [{"role": "user", "content": "Hi"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "parameters": {"type": "object", "properties": {"word": {"type": "string"}}},
        },
    }
]
SAMPLING: dict[str, Any] = {
    "n": 2, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 3,
    "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.5,
    "logit_bias": {"5": 2.0}, "stop": ["zz"], "stop_token_ids": [7], "bad_words": ["no"],
    "allowed_token_ids": list(range(97, 123)), "min_tokens": 1, "ignore_eos": True,
    "include_stop_str_in_output": True, "skip_special_tokens": False, "prompt_logprobs": 1,
}  # fmt: skip
ENGINE = FakeEngine()
APP = create_app(ENGINE, byte_tokenizer(), ServerConfig(), more_routes=ROUTES)


def asked(path: str, body: dict[str, Any]) -> Request:
    """What the engine is asked for by a body."""
    answer = post(APP, path, body)
    assert answer.status_code == 200, answer.text
    return ENGINE.requests[-1]


def test_rendered_tokens_tell_their_places_in_the_text() -> None:
    body = {"prompt": ["é!", "a"], "return_token_offsets": True}
    first, second = post(APP, f"{COMPLETION}/render", body).json()
    assert first["token_offsets"] == [[0, 0], [0, 1], [0, 1], [1, 2]]
    assert second["token_offsets"] == [[0, 0], [0, 1]]
    [ids] = post(APP, f"{COMPLETION}/render", body | {"prompt": [1, 2]}).json()
    assert ids["token_offsets"] is None  # it has no text
    chat = {"messages": HELLO, "return_token_offsets": True}
    found = post(APP, f"{CHAT}/render", chat).json()
    end = len("[user]Hi</s>[assistant]")
    assert found["token_offsets"][-1] == [end - 1, end]
    assert len(found["token_offsets"]) == len(found["token_ids"])
    assert post(APP, f"{CHAT}/render", {"messages": HELLO}).json()["token_offsets"] is None
    assert post(APP, GENERATE, found).status_code == 200
    refused = post(APP, CHAT, chat)
    assert refused.json()["error"]["param"] == "return_token_offsets"


def error_of(body: dict[str, Any]) -> tuple[str, str, str]:
    answer = post(APP, GENERATE, body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    return error["param"], error["code"], error["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": HELLO, "logprobs": True, "top_logprobs": 2, "max_tokens": 3}),
        (CHAT, {"messages": HELLO}),
        (COMPLETION, {"prompt": "Hi", "logprobs": 0}),
        (COMPLETION, {"prompt": [1, 2, 3], "max_tokens": None}),
        (CHAT, {"messages": HELLO, "response_format": {"type": "json_object"}}),
        (CHAT, {"messages": HELLO, "tools": TOOLS, "tool_choice": "required"}),
        (COMPLETION, {"prompt": "Hi", "structured_outputs": {"choice": ["a", "b"]}}),
    ],
    ids=str,
)
def test_what_is_rendered_is_computed_as_the_request_itself(
    path: str, body: dict[str, Any]
) -> None:
    more = SAMPLING | {"priority": 4, "cache_salt": "s", "retention": {"ttl_s": 5}}
    more |= {"session_id": "t"} if path == CHAT else {}
    whole = asked(path, body | more)
    num_before = len(ENGINE.requests)
    answer = post(APP, f"{path}/render", body | more)
    assert answer.status_code == 200, answer.text
    assert len(ENGINE.requests) == num_before  # nothing was generated
    rendered = answer.json() if path == CHAT else answer.json()[0]
    assert rendered["request_id"].startswith("chatcmpl-" if path == CHAT else "cmpl-")
    assert rendered["model"] == "fake/model"
    again = asked(GENERATE, rendered)
    for name in (
        "prompt_token_ids", "sampling", "priority", "cache_salt", "adapter", "session_id",
        "retention",
    ):  # fmt: skip
        assert getattr(again, name) == getattr(whole, name), name
    assert (again.grammar is None) == (whole.grammar is None)


def test_each_prompt_is_rendered() -> None:
    bodies = post(APP, f"{COMPLETION}/render", {"prompt": ["a", "bc"]}).json()
    assert [each["token_ids"] for each in bodies] == [[256, 97], [256, 98, 99]]
    assert bodies[0]["sampling_params"]["max_tokens"] == 16


def test_streams_are_rendered_as_such_and_answered_at_once() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"messages": HELLO, "stream": True, "stream_options": options}
    answer = post(APP, f"{CHAT}/render", body)
    assert answer.headers["content-type"] == "application/json"
    assert (answer.json()["stream"], answer.json()["stream_options"]) == (True, options)
    assert post(APP, f"{CHAT}/render", {"messages": []}).status_code == 400
    unknown = post(APP, f"{CHAT}/render", {"messages": HELLO, "model": "no"})
    assert unknown.status_code == 404


def test_tokens_in_tokens_out() -> None:
    body = {"token_ids": [1, 2], "sampling_params": {"max_tokens": 3, "logprobs": 2, "n": 2}}
    answer = post(APP, GENERATE, body | {"request_id": "mine"}).json()
    assert answer["request_id"] == answer["id"] == "generate-tokens-mine"
    assert answer["usage"]["prompt_tokens"] == 2
    assert answer["prompt_logprobs"] is answer["kv_transfer_params"] is None
    assert [each["token_ids"] for each in answer["choices"]] == [[97, 98, 99], [98, 99, 100]]
    first = answer["choices"][0]
    assert (first["finish_reason"], first["stop_reason"]) == ("length", None)
    (entry, *_) = first["logprobs"]["content"]
    assert entry["token"] == "token_id:97"
    assert [top["token"] for top in entry["top_logprobs"]] == ["token_id:97", "token_id:96"]


def test_the_sampled_token_is_told_even_without_others() -> None:
    body = {"token_ids": [1], "sampling_params": {"max_tokens": 1, "logprobs": 0}}
    ((entry,),) = [
        each["logprobs"]["content"] for each in post(APP, GENERATE, body).json()["choices"]
    ]
    assert [top["token"] for top in entry["top_logprobs"]] == ["token_id:97"]


def test_prompt_logprobs_are_told() -> None:
    body = {"token_ids": [5, 6], "sampling_params": {"max_tokens": 1, "prompt_logprobs": 0}}
    none, second = post(APP, GENERATE, body).json()["prompt_logprobs"]
    assert (none, list(second)) == (None, ["6"])


def test_a_stream_is_the_whole_answer_in_parts() -> None:
    body = {"token_ids": [1], "sampling_params": {"max_tokens": 3, "logprobs": 1}}
    whole = post(APP, GENERATE, body).json()
    *chunks, usage, done = events(
        post(APP, GENERATE, body | {"stream": True, "stream_options": {"include_usage": True}})
    )
    choices = [each["choices"][0] for each in chunks]
    (choice,) = whole["choices"]
    assert [i for each in choices for i in each["token_ids"]] == choice["token_ids"]
    content = [entry for each in choices for entry in each["logprobs"]["content"]]
    assert content == choice["logprobs"]["content"]
    assert [each["finish_reason"] for each in choices] == [None, None, "length"]
    assert {each["request_id"] for each in chunks} == {chunks[0]["id"]}
    assert (usage["usage"], done) == (whole["usage"], "[DONE]")


def test_without_sampling_params_the_models_length_is_the_limit() -> None:
    request = asked(GENERATE, {"token_ids": [1] * 4000})
    assert request.sampling.max_tokens == 96


@pytest.mark.parametrize(
    ("body", "param", "code", "message"),
    [
        ({}, "token_ids", "missing_required_parameter", "required"),
        ({"token_ids": []}, "token_ids", "invalid_value", "at least one token"),
        ({"token_ids": [258]}, "token_ids", "invalid_value", r"in \[0, 257\], got 258"),
        ({"token_ids": "a"}, "token_ids", "invalid_type", "valid list"),
        ({"token_ids": [1], "sampling_params": 5}, "sampling_params", "invalid_type", "an object"),
        ({"token_ids": [1], "temperature": 1}, "temperature", "unknown_parameter",
         "goes into sampling_params"),
        ({"token_ids": [1], "sampling_params": {"priority": 1}}, "sampling_params.priority",
         "unknown_parameter", "stands beside"),
        ({"token_ids": [1], "sampling_params": {"no": 1}}, "no", "unknown_parameter", "unknown"),
        ({"token_ids": [1], "sampling_params": {"temperature": -1}}, "temperature",
         "invalid_value", "at least 0"),
        ({"token_ids": [1], "sampling_params": {"stop": ["a"], "detokenize": False}}, "stop",
         "invalid_value", "need detokenize=true"),
        ({"token_ids": [1], "sampling_params": {"max_tokens": 5000}}, "max_tokens",
         "context_length_exceeded", "at most 4095"),
        ({"token_ids": [1], "features": {"mm_hashes": {}}}, "features", "unsupported_parameter",
         "reads tokens only"),
        ({"token_ids": [1], "kv_transfer_params": {"a": 1}}, "kv_transfer_params",
         "unsupported_parameter", "not moved between servers"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(body: dict[str, Any], param: str, code: str, message: str) -> None:
    found = error_of(body)
    assert found[:2] == (param, code)
    assert re.search(message, found[2]), found[2]


def test_values_without_effect_are_accepted() -> None:
    extras = {"detokenize": False, "output_kind": 2, "skip_clone": True}
    body = {"token_ids": [1], "features": None, "kv_transfer_params": {}}
    assert asked(GENERATE, body | {"sampling_params": extras | {"max_tokens": 1}})
