"""What /derender makes of generated tokens is what the routes of texts answer themselves."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.protocol import Request
from flaxen.server.app import create_app
from flaxen.server.config import ServerConfig
from flaxen.token_routes.routes import ROUTES
from tests.server.clients import post
from tests.server.fakes import END, FakeEngine, byte_tokenizer

COMPLETION, CHAT, GENERATE = "/v1/completions", "/v1/chat/completions", "/inference/v1/generate"
HELLO = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
CALL = '<think>So.</think>Yes.<tool_call>{"name": "look_up", "arguments": {"a": 1}}</tool_call>'


def says(request: Request, index: int) -> list[int]:
    return [*CALL.encode(), END]


def app_of(engine: FakeEngine, **config: Any) -> Any:
    return create_app(engine, byte_tokenizer(), ServerConfig(**config), more_routes=ROUTES)


APP = app_of(FakeEngine())


def ok(app: Any, path: str, body: Any) -> Any:
    answer = post(app, path, body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    "body", [{}, {"tools": TOOLS}, {"tools": TOOLS, "include_reasoning": False}, {"n": 2}]
)
def test_a_chat_in_parts_is_the_chat(body: dict[str, Any]) -> None:
    app = app_of(FakeEngine(says=says), reasoning_parser="deepseek_r1", tool_call_parser="hermes")
    asked = {"messages": HELLO, "logprobs": True, "top_logprobs": 2, "max_tokens": 200, **body}
    whole = ok(app, CHAT, asked)
    tokens = ok(app, GENERATE, ok(app, f"{CHAT}/render", asked))
    num_prompt = tokens["usage"]["prompt_tokens"]
    given = {"generate_response": tokens, "prompt_tokens": num_prompt}
    made = ok(app, f"{CHAT}/derender", given | {"chat_request": asked})
    for one, other in zip(made["choices"], whole["choices"], strict=True):
        for message in (one["message"], other["message"]):
            for call in message.get("tool_calls", ()):
                del call["id"]  # chosen anew
        for name in ("index", "message", "finish_reason", "stop_reason", "logprobs"):
            assert one[name] == other[name], name
    for name in ("object", "model", "prompt_logprobs", "kv_transfer_params"):
        assert made[name] == whole[name], name
    assert made["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
    plain = ok(app, f"{CHAT}/derender", given)["choices"][0]["message"]
    assert plain["content"] == CALL


def test_completions_in_parts_are_the_completions() -> None:
    asked = {"prompt": ["x", "yz"], "n": 2, "logprobs": 1, "max_tokens": 3}
    whole = ok(APP, COMPLETION, asked)
    tokens = [ok(APP, GENERATE, each) for each in ok(APP, f"{COMPLETION}/render", asked)]
    counts = [each["usage"]["prompt_tokens"] for each in tokens]
    body = {"generate_responses": tokens, "prompt_tokens": counts}
    made = ok(APP, f"{COMPLETION}/derender", body)
    for one, other in zip(made["choices"], whole["choices"], strict=True):
        for name in ("index", "text", "finish_reason"):
            assert one[name] == other[name], name
        for name in ("tokens", "token_logprobs"):
            assert one["logprobs"][name] == other["logprobs"][name], name
        assert one["logprobs"]["text_offset"] == [0, 1, 2]
    assert made["object"] == whole["object"]
    assert made["usage"]["total_tokens"] == whole["usage"]["total_tokens"]


def generated(*token_ids: int) -> dict[str, Any]:
    choice = {"index": 0, "token_ids": token_ids, "finish_reason": "stop"}
    return {"request_id": "r", "choices": [choice]}


ONE = generated(97)


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        (CHAT, {}, 400, "generate_response"),
        (CHAT, {"generate_response": {"request_id": "r", "choices": []}}, 400,
         "generate_response.choices"),
        (CHAT, {"generate_response": generated()}, 400,
         "generate_response.choices[0].token_ids"),
        (CHAT, {"generate_response": generated(258)}, 400, "generate_response"),
        (CHAT, {"generate_response": ONE, "chat_request": {"messages": []}}, 400, "messages"),
        (CHAT, {"generate_response": ONE, "model": "other"}, 404, "model"),
        (COMPLETION, {"generate_responses": []}, 400, "generate_responses"),
        (COMPLETION, {"generate_responses": [ONE], "prompt_tokens": [1, 2]}, 400, "prompt_tokens"),
        (COMPLETION, {"generate_responses": [ONE], "stream": True}, 400, "stream"),
    ],
)  # fmt: skip
def test_what_is_refused(path: str, body: dict[str, Any], status: int, param: str) -> None:
    answer = post(APP, f"{path}/derender", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text
