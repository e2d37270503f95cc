"""What clients send though it has no effect here is accepted; what would have one is refused."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from flaxen.protocol import SamplingParams
from tests.server.clients import make_app, post
from tests.server.fakes import END, FakeEngine

COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"
ENGINE = FakeEngine()
APP = make_app(ENGINE)
HELLO = [{"role": "user", "content": "Hi"}]
GOOD: dict[str, dict[str, Any]] = {COMPLETION: {"prompt": "Hi"}, CHAT: {"messages": HELLO}}


def sampled(path: str, body: dict[str, Any]) -> SamplingParams:
    """How the engine is told to sample for a body; the prompt and one token are put into it."""
    answer = post(APP, path, GOOD[path] | {"max_tokens": 4} | body)
    assert answer.status_code == 200, answer.text
    return ENGINE.requests[-1].sampling


def error_of(path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer: httpx.Response = post(APP, path, GOOD[path] | body)
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


BOTH = [
    {"stop": ""}, {"stop": []}, {"stop": [""]}, {"stop": ["", ""]}, {"stop": None},
    {"best_of": 1}, {"best_of": 1.0, "n": 1.0}, {"logit_bias": {}}, {"stop_token_ids": []},
    {"bad_words": []}, {"min_tokens": 0}, {"top_k": 0},
    {"user": "u"}, {"metadata": {}}, {"metadata": {"a": "b"}}, {"store": False},
    {"service_tier": "auto"}, {"service_tier": "default"}, {"prompt_cache_key": "k"},
    {"safety_identifier": "s"}, {"prompt_cache_retention": "in_memory"},
    {"response_format": {"type": "text"}}, {"response_format": {"type": "text", "x": None}},
    {"priority": 0}, {"priority": 0.0}, {"length_penalty": 1.0}, {"length_penalty": 1},
    {"use_beam_search": False}, {"early_stopping": False}, {"detokenize": True},
    {"spaces_between_special_tokens": True}, {"spaces_between_special_tokens": False},
    {"logprob_token_ids": []}, {"logits_processors": []}, {"vllm_xargs": {}},
    {"kv_transfer_params": {}},
    {"ec_transfer_params": {}, "stream_interval": 1, "watermarking": False},
    {"thinking_token_budget": -1, "routed_experts_prompt_start": 0, "return_mm_kwargs": True},
    {"return_token_offsets": False}, {"prompt_cache_options": {"mode": "implicit", "ttl": "30m"}},
    {"stream": True, "stream_options": {}}, {"stream": True, "stream_options": {"x": None}},
    *({name: None} for name in (
        "request_id", "stream_options", "truncate_prompt_tokens", "guided_json", "guided_regex",
        "guided_choice", "guided_grammar", "guided_decoding_backend", "structured_outputs",
        "structural_tag", "mm_processor_kwargs", "prediction", "reasoning_effort",
        "some_field_that_nobody_knows", "echo", "best_of", "add_special_tokens",
    )),
]  # fmt: skip
ONLY_CHAT = [
    {"return_prompt_text": False},
    {"include_reasoning": True}, {"include_reasoning": False}, {"reasoning_effort": "none"},
    {"documents": []}, {"echo": False}, {"tools": []},
    {"tools": [], "tool_choice": "auto", "parallel_tool_calls": False}, {"tool_choice": "none"},
    {"functions": []}, {"function_call": "none"}, {"modalities": ["text"]},
    {"audio": {"voice": "a"}},
    {"mm_processor_kwargs": {}}, {"media_io_kwargs": {}}, {"verbosity": "medium"},
    {"continue_final_message": False}, {"add_generation_prompt": True},
    {"chat_template": None}, {"chat_template_kwargs": {}}, {"chat_template_kwargs": None},
    {"logprobs": False, "top_logprobs": 0}, {"prompt": None}, {"suffix": None},
]  # fmt: skip
ONLY_COMPLETIONS: list[dict[str, Any]] = [
    {"suffix": ""}, {"messages": None}, {"tools": None}, {"prompt_embeds": None}, {"echo": False},
    {"max_completion_tokens": 4}, {"max_completion_tokens": 4.0, "max_tokens": None},
]  # fmt: skip


@pytest.mark.parametrize("body", BOTH, ids=str)
def test_what_has_no_effect_is_accepted_by_both_routes(body: dict[str, Any]) -> None:
    for path in GOOD:
        assert sampled(path, body) == SamplingParams(max_tokens=4)


@pytest.mark.parametrize("body", ONLY_CHAT, ids=str)
def test_what_has_no_effect_is_accepted_by_chat(body: dict[str, Any]) -> None:
    assert sampled(CHAT, body) == SamplingParams(max_tokens=4)


@pytest.mark.parametrize("body", ONLY_COMPLETIONS, ids=str)
def test_what_has_no_effect_is_accepted_by_completions(body: dict[str, Any]) -> None:
    assert sampled(COMPLETION, body) == SamplingParams(max_tokens=4)


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        *((path, body, why) for path in GOOD for body, why in [
            ({"early_stopping": True}, "ends when its beams have"),
            ({"detokenize": False}, "the answer is always text"),
            ({"logits_processors": ["x"]}, "runs nothing that a request names"),
            ({"vllm_xargs": {"a": 1}}, "runs nothing that a request names"),
            ({"kv_transfer_params": {"a": 1}}, "not moved between servers"),
            ({"ec_transfer_params": {"a": 1}}, "reads text only"),
            ({"stream_interval": 5}, "each token is sent as it comes"),
            ({"watermarking": True}, "puts no marks into texts"),
            ({"routed_experts_prompt_start": 5}, "experts are not returned"),
            ({"return_token_offsets": True}, "is of /render"),
            ({"return_mm_kwargs": 1}, "must be true or false"),
            ({"prompt_cache_options": {"mode": "explicit"}}, "cached by themselves"),
            ({"prompt_cache_options": "implicit"}, "cached by themselves"),
            ({"moderation": {"model": "m"}}, "judges no texts"),
            ({"store": True}, "stores no completions"),
        ]),
        (COMPLETION, {"thinking_token_budget": 5}, "only chats tell thoughts"),
        (CHAT, {"thinking_token_budget": 5}, "how this model marks its reasoning"),
        (CHAT, {"return_prompt_text": True}, "return_token_ids adds the prompt's tokens"),
        (CHAT, {"documents": [{"text": "a"}]}, "put their text into a message"),
        (CHAT, {"mm_processor_kwargs": {"a": 1}}, "reads text only"),
    ],
    ids=str,
)  # fmt: skip
def test_what_has_an_effect_is_refused_by_name(path: str, body: dict[str, Any], why: str) -> None:
    error = error_of(path, body)
    assert (error["param"], error["code"]) == (next(iter(body)), "unsupported_parameter")
    assert why in error["message"]


def test_empty_stop_strings_leave_the_others() -> None:
    assert sampled(COMPLETION, {"stop": ["", "a", ""]}).stop == ("a",)


def test_top_k_may_be_minus_1_with_or_without_a_point() -> None:
    assert sampled(CHAT, {"top_k": -1}).top_k == sampled(CHAT, {"top_k": -1.0}).top_k == -1


def test_top_p_may_be_0() -> None:
    for value in (0, 0.0, -0.0):
        assert sampled(CHAT, {"top_p": value}).top_p == 0


WHOLE = ("n", "top_k", "seed", "min_tokens", "max_tokens", "prompt_logprobs")


@pytest.mark.parametrize("path", [COMPLETION, CHAT])
def test_a_whole_number_may_have_a_point(path: str) -> None:
    found = sampled(path, dict.fromkeys(WHOLE, 3.0) | {"stop_token_ids": [9.0]})
    values = [*(getattr(found, name) for name in WHOLE), *found.stop_token_ids]
    assert values == [3] * len(WHOLE) + [9]
    assert all(type(value) is int for value in values)


def test_whole_numbers_with_a_point_of_one_route_each() -> None:
    assert sampled(COMPLETION, {"logprobs": 2.0, "best_of": 1.0}).logprobs == 2
    assert sampled(CHAT, {"logprobs": True, "top_logprobs": 2.0}).logprobs == 2
    assert sampled(CHAT, {"max_tokens": None, "max_completion_tokens": 5.0}).max_tokens == 5
    for prompt in ([72.0, 105], [[72.0], [105.0]]):
        num_before = len(ENGINE.requests)
        assert post(APP, COMPLETION, {"prompt": prompt}).status_code == 200
        assert [i for r in ENGINE.requests[num_before:] for i in r.prompt_token_ids] == [72, 105]
    answer = post(APP, "/detokenize", {"tokens": [72.0, 105.0]})
    assert answer.json() == {"prompt": "Hi", "content": "Hi"}


@pytest.mark.parametrize("value", [1.5, "1", True, 1e-9])
def test_what_is_no_whole_number_is_still_refused(value: Any) -> None:
    error = error_of(COMPLETION, {"n": value})
    assert (error["param"], error["code"]) == ("n", "invalid_type")


def prompt_of(messages: list[dict[str, Any]]) -> bytes:
    """What the template renders; the end token, which has no byte, as "/"."""
    answer = post(APP, CHAT, {"messages": messages, "max_tokens": 1})
    assert answer.status_code == 200, answer.text
    return bytes(ord("/") if i == END else i for i in ENGINE.requests[-1].prompt_token_ids)


@pytest.mark.parametrize(
    "extra",
    [
        {"reasoning_content": None},
        {"reasoning_content": "", "reasoning": ""},
        {"tool_calls": None, "function_call": None, "tool_call_id": None},
        {"tool_calls": []},
        {"refusal": None, "audio": None, "annotations": []},
        {"cache_control": {"type": "ephemeral"}},
        {"name": None, "some_field_that_nobody_knows": None},
    ],
    ids=str,
)
def test_histories_of_other_servers_are_read(extra: dict[str, Any]) -> None:
    assert prompt_of([{"role": "assistant", "content": "a"} | extra]) == b"[assistant]a/[assistant]"


@pytest.mark.parametrize("message", [{"content": None}, {}, {"content": None, "tool_calls": []}])
def test_an_assistants_content_may_be_null(message: dict[str, Any]) -> None:
    assert prompt_of([{"role": "assistant"} | message]) == b"[assistant]/[assistant]"


@pytest.mark.parametrize("role", ["user", "system"])
def test_others_must_say_something(role: str) -> None:
    error = error_of(CHAT, {"messages": [{"role": role, "content": None}]})
    assert error["param"] == "messages[0].content"


def test_a_text_part_may_have_a_hint_for_caches() -> None:
    hint = {"type": "ephemeral", "ttl": "5m"}
    part = {"type": "text", "text": "a", "cache_control": hint, "annotations": [], "x": None}
    assert prompt_of([{"role": "user", "content": [part]}]) == b"[user]a/[assistant]"


@pytest.mark.parametrize(
    ("part", "param", "code", "message"),
    [
        ({"cache_control": "yes"}, "cache_control", "unsupported_parameter", "must be an object"),
        ({"annotations": [1]}, "annotations", "unsupported_parameter", "reads text only"),
        ({"colour": 1}, "colour", "unknown_parameter", "a text part has type and text"),
    ],
)
def test_other_fields_of_a_part_are_refused(
    part: dict[str, Any], param: str, code: str, message: str
) -> None:
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"} | part]
    error = error_of(CHAT, {"messages": [{"role": "user", "content": content}]})
    assert (error["param"], error["code"]) == (f"messages[0].content[1].{param}", code)
    assert message in error["message"]


@pytest.mark.parametrize(("path", "prefix"), [(COMPLETION, "cmpl"), (CHAT, "chatcmpl")])
def test_request_id_is_the_answers_id(path: str, prefix: str) -> None:
    body = GOOD[path] | {"request_id": "my-id:1"}
    answer = post(APP, path, body)
    assert answer.json()["id"] == f"{prefix}-my-id:1"
    assert answer.headers["x-request-id"] == "my-id:1"
    assert ENGINE.requests[-1].request_id.startswith(f"{prefix}-my-id:1-")
    # As in vLLM, a header says more than the body: whoever forwards a request may have put it.
    answer = post(APP, path, body, headers={"x-request-id": "other"})
    assert answer.json()["id"] == f"{prefix}-other"
    assert answer.headers["x-request-id"] == "other"


@pytest.mark.parametrize("value", ["", "a b", "a\nb", "é", "a" * 129])
def test_a_request_id_must_be_one_that_a_header_can_hold(value: str) -> None:
    error = error_of(CHAT, {"request_id": value})
    assert (error["param"], error["code"]) == ("request_id", "invalid_value")
    assert "1 to 128 letters, digits" in error["message"]
