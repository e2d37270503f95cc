"""Several chats in one request: each has the answer that it has alone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.clients import make_app, post
from tests.server.fakes import FakeEngine

CHAT, BATCH = "/v1/chat/completions", "/v1/chat/completions/batch"
CHATS = [[{"role": "user", "content": text}] for text in ("Hi", "Bye", "Why?")]


def test_each_chat_has_the_choice_that_it_has_alone() -> None:
    engine = FakeEngine()
    app = make_app(engine)
    options = {"max_tokens": 3, "logprobs": True, "return_token_ids": True}
    alone = [post(app, CHAT, {"messages": chat, **options}).json() for chat in CHATS]
    asked = [request.prompt_token_ids for request in engine.requests]
    answer = post(app, BATCH, {"messages": CHATS, **options})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert [request.prompt_token_ids for request in engine.requests[3:]] == asked
    assert len({request.request_id for request in engine.requests}) == 6
    assert found["object"] == "chat.completion"
    assert found["choices"] == [
        each["choices"][0] | {"index": index} for index, each in enumerate(alone)
    ]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert found["usage"][name] == sum(each["usage"][name] for each in alone)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": CHATS[0]}, "messages"),
        ({"messages": CHATS * 2}, "messages"),
        ({"stream": True}, "stream"),
        ({"n": 2}, "n"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ],
)
def test_what_a_batch_does_not_take(body: dict[str, Any], param: str) -> None:
    answer = post(make_app(max_prompts=5), BATCH, {"messages": CHATS} | body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
