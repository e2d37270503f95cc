"""What a body says of how long its prefix is kept, in our own, vLLM's, OpenAI's and Anthropic's
words.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.messages_routes.serving import Server
from tests.server.clients import make_app, post
from tests.server.fakes import FakeEngine

COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hi"}]
GOOD: dict[str, dict[str, Any]] = {COMPLETION: {"prompt": "Hi"}, CHAT: {"messages": HELLO}}
ENGINE = FakeEngine()
APP = make_app(ENGINE)


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize(
    ("body", "session", "retention"),
    [
        ({}, None, None),
        ({"session_id": "s"}, "s", 300),
        ({"session_id": "s", "retention": {"ttl_s": 7.5}}, "s", 7.5),
        ({"session_id": "s", "retention": "done"}, "s", "done"),
        ({"retention": "drop"}, None, "drop"),
        ({"retention": {"ttl_s": 60}}, None, 60),
        ({"prompt_cache_retention": "24h"}, None, 86400),
        ({"prompt_cache_retention": "in_memory"}, None, None),
        ({"prompt_cache_retention": "24h", "retention": "done"}, None, "done"),
        ({"cache_prompt": False, "retention": {"ttl_s": 60}}, None, "drop"),
    ],
    ids=str,
)
def test_the_engine_is_told(path: str, body: dict[str, Any], session: str, retention: Any) -> None:
    answer = post(APP, path, GOOD[path] | body)
    assert answer.status_code == 200, answer.text
    asked = ENGINE.requests[-1]
    assert (asked.session_id, asked.retention) == (session, retention)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"retention": "for ever"}, "retention"),
        ({"retention": {"ttl_s": 0}}, "retention"),
        ({"retention": {"ttl_s": 86401}}, "retention"),
        ({"retention": {"ttl_s": 5, "x": 1}}, "retention"),
        ({"session_id": 1}, "session_id"),
        ({"session_id": "s" * 513}, "session_id"),
        ({"prompt_cache_retention": "48h"}, "prompt_cache_retention"),
    ],
    ids=lambda each: str(each)[:60],
)
def test_a_wrong_value_is_refused(body: dict[str, Any], param: str) -> None:
    answer = post(APP, CHAT, GOOD[CHAT] | body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(param)


def marked(**mark: Any) -> dict[str, Any]:
    return {"type": "text", "text": "x", "cache_control": {"type": "ephemeral", **mark}}


@pytest.mark.parametrize(
    ("body", "retention"),
    [
        ({}, None),
        ({"cache_control": {"type": "ephemeral"}}, 300),
        ({"system": [marked(), marked(ttl="1h")]}, 3600),
        ({"messages": [{"role": "user", "content": [marked(ttl="5m")]}]}, 300),
        ({"messages": [{"role": "user", "content": [marked(ttl="1y")]}]}, None),
        (
            {
                "tools": [
                    {
                        "name": "a",
                        "input_schema": {"type": "object"},
                        "cache_control": {"type": "ephemeral", "ttl": "1h"},
                    }
                ]
            },
            3600,
        ),
    ],
    ids=str,
)
def test_anthropics_marks_say_how_long(body: dict[str, Any], retention: float | None) -> None:
    server = Server("Hello")
    server.message(**body)
    assert server.engine.requests[-1].retention == retention
