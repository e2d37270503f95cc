"""The official OpenAI client gets what it asks for, in the form it knows, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import openai
import pytest

import flaxen
from tests.e2e.serving import CAPITAL, END_OF_TURN, KEY, MODEL, ONCE, ONE_TWO, Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GOLDEN = Path(__file__).parent.parent / "models" / "goldens" / "smollm2_greedy.json"
# The likeliest two may be closer than float32 can tell: from there on the texts may differ.
CLEAR = 0.01


def test_greedy_tokens_and_logprobs_are_those_of_transformers(server: Server) -> None:
    items = json.loads(GOLDEN.read_text())["items"]
    prompts = [item["prompt_token_ids"] for item in items]
    answer = server.complete(
        prompts, max_tokens=16, ignore_eos=True, logprobs=5, return_token_ids=True,
        return_tokens_as_token_ids=True,
    )  # fmt: skip
    assert answer.usage.prompt_tokens == sum(map(len, prompts))
    assert answer.usage.completion_tokens == 16 * len(prompts)
    num_compared = 0
    for index, (choice, item) in enumerate(zip(answer.choices, items, strict=True)):
        assert choice.index == index
        assert choice.prompt_token_ids == item["prompt_token_ids"]
        tops = choice.logprobs.top_logprobs
        for token_id, top, golden in zip(choice.token_ids, tops, item["top5"], strict=False):
            if golden[0][1] - golden[1][1] < CLEAR:
                break
            assert token_id == golden[0][0]
            expected = {f"token_id:{i}": value for i, value in golden}
            assert {i: top[i] for i in expected} == pytest.approx(expected, abs=2e-4, rel=0)
            num_compared += 1
    assert num_compared > 150


@pytest.mark.parametrize(
    "asked",
    [
        {"max_tokens": 12},
        {"max_tokens": 12, "logprobs": 2},
        {"max_tokens": 12, "logprobs": 1, "echo": True},
        {"max_tokens": 0, "logprobs": 1, "echo": True},
        {"max_tokens": 12, "stop": [" Nova", "thriving"], "include_stop_str_in_output": True},
        {"max_tokens": 8, "n": 3, "temperature": 1.0, "top_p": 0.9, "seed": 5, "logprobs": 0},
    ],
)
def test_a_streamed_completion_is_the_whole_one(server: Server, asked: dict[str, Any]) -> None:
    whole = server.complete(ONCE, return_token_ids=True, **asked)
    options = {"include_usage": True}
    stream = server.complete(
        ONCE, return_token_ids=True, stream=True, stream_options=options, **asked
    )
    *chunks, last = stream
    assert {chunk.id for chunk in chunks} == {last.id}
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage == whole.usage
    assert whole.usage.completion_tokens == sum(len(choice.token_ids) for choice in whole.choices)
    for choice in whole.choices:
        parts = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert "".join(part.text for part in parts) == choice.text
        assert [i for part in parts for i in part.token_ids] == choice.token_ids
        assert [part.finish_reason for part in parts[:-1]] == [None] * (len(parts) - 1)
        assert (parts[-1].finish_reason, parts[-1].stop_reason) == (
            choice.finish_reason,
            choice.stop_reason,
        )
        scored = [part.logprobs for part in parts if part.logprobs is not None]
        assert bool(scored) == ("logprobs" in asked)
        for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            streamed = [value for part in scored for value in getattr(part, field)]
            assert streamed == (getattr(choice.logprobs, field) if scored else [])


def test_a_streamed_chat_is_the_whole_one(server: Server) -> None:
    asked: dict[str, Any] = {
        "max_completion_tokens": 12, "n": 2, "temperature": 1.0, "seed": 3, "top_p": 0.9,
        "logprobs": True, "top_logprobs": 2,
    }  # fmt: skip
    whole = server.chat(CAPITAL, **asked)
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last = server.chat(CAPITAL, stream=True, stream_options=options, **asked)
    assert last.choices == []
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, whole.usage.completion_tokens)
    assert [chunk.choices[0].delta.role for chunk in chunks[:2]] == ["assistant"] * 2
    for choice in whole.choices:
        parts = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert choice.message.role == "assistant"
        assert "".join(part.delta.content or "" for part in parts) == choice.message.content
        assert parts[-1].finish_reason == choice.finish_reason
        scored = [entry for part in parts if part.logprobs for entry in part.logprobs.content]
        assert scored == choice.logprobs.content
        for entry in scored:
            assert bytes(entry.bytes).decode(errors="replace") == entry.token
            assert len(entry.top_logprobs) == 2


def test_text_arrives_while_it_is_generated(server: Server) -> None:
    with server.complete(ONCE, max_tokens=200, ignore_eos=True, stream=True) as stream:
        next(iter(stream))
        assert server.metrics()["num_requests_running"] == 1


def test_a_chat_ends_at_the_end_of_its_turn(server: Server) -> None:
    answer = server.chat(CAPITAL, return_token_ids=True)  # no limit but the model's length
    (choice,) = answer.choices
    assert "Berlin" in choice.message.content
    assert "<|im_end|>" not in choice.message.content
    assert (choice.finish_reason, choice.stop_reason) == ("stop", None)
    assert choice.token_ids[-1] == END_OF_TURN
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    tokens = server.http.post("/tokenize", json={"messages": CAPITAL}).json()
    assert answer.prompt_token_ids == tokens["tokens"]
    assert answer.usage.prompt_tokens == tokens["count"]


def test_every_message_is_read(server: Server) -> None:
    def prompt(*messages: dict[str, Any], **body: Any) -> Any:
        return server.chat(messages, max_tokens=1, return_token_ids=True, **body).prompt_token_ids

    def text(ids: list[int]) -> str:
        return str(server.http.post("/detokenize", json={"tokens": ids}).json()["prompt"])

    system = {"role": "system", "content": "Answer in French."}
    user = {"role": "user", "content": "Hello."}
    parts = [{"type": "text", "text": "Hello."}, {"type": "text", "text": "Bye."}]
    assistant = {"role": "assistant", "content": "Bonjour."}
    ids = prompt(system, user, assistant, user)
    assert text(ids) == (
        "<|im_start|>system\nAnswer in French.<|im_end|>\n<|im_start|>user\nHello.<|im_end|>\n"
        "<|im_start|>assistant\nBonjour.<|im_end|>\n<|im_start|>user\nHello.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert prompt({**system, "role": "developer"}, user, assistant, user) == ids
    in_parts = text(prompt(system, {"role": "user", "content": parts}))
    assert "user\nHello.\nBye.<|im_end|>" in in_parts
    bare = text(prompt(system, user, add_generation_prompt=False))
    assert bare.endswith("<|im_start|>user\nHello.<|im_end|>\n")


def test_every_form_of_a_prompt(server: Server) -> None:
    ids = server.http.post("/tokenize", json={"prompt": ONE_TWO}).json()["tokens"]
    (expected,) = server.complete(ONE_TWO, max_tokens=4).choices
    for prompt in (ids, [ONE_TWO] * 2, [ids] * 2):
        answer = server.complete(prompt, max_tokens=4)
        assert {choice.text for choice in answer.choices} == {expected.text}
        assert len(answer.choices) == (1 if prompt is ids else 2)


def test_models(server: Server) -> None:
    (listed,) = server.openai.models.list().data
    assert listed.id == MODEL
    assert listed.max_model_len == 1024
    assert server.openai.models.retrieve(MODEL) == listed


def test_tokenize_and_back(server: Server) -> None:
    text = "Grüße, 世界! 🦆 <|im_end|>"
    asked = {"prompt": text, "return_token_strs": True}
    tokens = server.http.post("/tokenize", json=asked).json()
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"])
    assert tokens["tokens"][-1] == END_OF_TURN
    assert tokens["token_strs"][-1] == "<|im_end|>"
    assert tokens["max_model_len"] == 1024
    back = server.http.post("/detokenize", json={"tokens": tokens["tokens"]}).json()
    assert back == {"prompt": text, "content": text}  # vLLM's name and llama.cpp's


def test_version(server: Server) -> None:
    assert server.http.get("/version").json() == {"version": flaxen.__version__}


@pytest.mark.parametrize("path", ["/health", "/version", "/v1/models", "/metrics", "/nowhere"])
def test_every_route_but_health_wants_the_key(server: Server, path: str) -> None:
    for key in ({}, {"authorization": "Bearer wrong"}, {"authorization": KEY}):
        request = server.http.build_request("GET", path)
        request.headers.pop("authorization")
        request.headers.update(key)
        assert server.http.send(request).status_code == (200 if path == "/health" else 401)


def test_every_post_wants_the_key(server: Server) -> None:
    stranger = server.openai.with_options(api_key="wrong")
    with pytest.raises(openai.AuthenticationError, match="API key is wrong"):
        stranger.chat.completions.create(model=MODEL, messages=CAPITAL, max_tokens=1)
    with pytest.raises(openai.AuthenticationError, match="API key is wrong"):
        stranger.completions.create(model=MODEL, prompt="Hi", max_tokens=1)
    for path in ("/tokenize", "/detokenize"):
        answer = server.http.post(path, json={}, headers={"authorization": ""})
        assert answer.status_code == 401


def test_metrics_count_what_was_done(server: Server) -> None:
    before = server.wait_until_idle()
    prompt = server.http.post("/tokenize", json={"prompt": ONCE * 10}).json()["tokens"]
    ended = server.complete([prompt], max_tokens=5, n=2, ignore_eos=True, cache_salt="metrics")
    again = server.complete([prompt], max_tokens=5, ignore_eos=True, cache_salt="metrics")
    server.chat(CAPITAL)
    after = server.wait_until_idle()
    grown = {name: after[name] - before[name] for name in after}
    chat_tokens = server.http.post("/tokenize", json={"messages": CAPITAL}).json()["count"]
    assert grown["prompt_tokens_total"] == 3 * len(prompt) + chat_tokens
    assert grown["generation_tokens_total"] == 15 + 8
    assert grown["request_success_totallength"] == 3
    assert grown["request_success_totalstop"] == 1
    assert grown["request_success_totalabort"] == grown["request_success_totalerror"] == 0
    assert grown["prefix_cache_queries_total"] == 3 * len(prompt) + chat_tokens
    cached = again.usage.prompt_tokens_details.cached_tokens
    assert cached == (len(prompt) - 1) // 16 * 16
    assert grown["prefix_cache_hits_total"] >= cached
    assert ended.usage.prompt_tokens_details.cached_tokens == 0
    assert grown["num_preemptions_total"] == 0
    for histogram, count in (
        ("time_to_first_token_seconds", 3),
        ("inter_token_latency_seconds", 3 * 4 + 7),
        ("request_queue_time_seconds", 4),
        ("e2e_request_latency_seconds", 4),
    ):
        assert grown[f"{histogram}_count"] == count, histogram
        assert grown[f"{histogram}_sum"] > 0


def test_a_prefix_is_cached_for_its_own_salt_only(server: Server) -> None:
    def cached(salt: str) -> int:
        answer = server.complete(ONCE * 10, max_tokens=1, cache_salt=salt)
        return int(answer.usage.prompt_tokens_details.cached_tokens)

    assert cached("one") == 0
    assert cached("one") >= 32
    assert cached("two") == 0


def texts(chunks: Iterable[Any]) -> str:
    return "".join(part.text for chunk in chunks for part in chunk.choices)


def test_letters_of_several_tokens_arrive_whole(server: Server) -> None:
    duck = server.http.post("/tokenize", json={"prompt": "🦆"}).json()["tokens"]
    assert len(duck) > 1
    bias = {str(i): 100 for i in duck}  # only its bytes: mostly no letter at all
    stream = server.complete(ONCE, stream=True, max_tokens=12, logit_bias=bias, temperature=1,
                             seed=1, return_token_ids=True)  # fmt: skip
    chunks = list(stream)
    ids = [i for chunk in chunks for part in chunk.choices for i in part.token_ids]
    assert set(ids) <= set(duck)
    expected = server.http.post("/detokenize", json={"tokens": ids}).json()["prompt"]
    assert texts(chunks) == expected
