"""One client's long chats and prompts do not stand in the way of others, over HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx

from flaxen.server.app import create_app
from flaxen.server.config import ServerConfig
from tests.server.clients import http_client, make_app, post, run
from tests.server.fakes import FakeEngine, byte_tokenizer

CHAT = "/v1/chat/completions"
# Hangs on messages that say so, as an endless loop in a template does.
HANGING = (
    "{% for m in messages %}{% if m.content == 'hang' %}{% for i in range(99999) %}"
    "{% for j in range(99999) %}{% endfor %}{% endfor %}{% endif %}{{ m.content }}{% endfor %}"
)


def chat(*contents: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": c} for c in contents], "max_tokens": 1}


def test_a_chat_has_a_limit_of_messages() -> None:
    app = make_app(max_messages=3)
    assert post(app, CHAT, chat("a", "b", "c")).status_code == 200
    for path, body in (
        (CHAT, chat(*"abcd")),
        ("/tokenize", {"messages": chat(*"abcd")["messages"]}),
    ):
        answer = post(app, path, body)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, "messages")
        assert (
            "messages must hold at most 3 messages on this server, got 4: send the last"
            in (error["message"])
        )


def test_parts_are_limited_with_the_messages() -> None:
    app = make_app(max_messages=3)
    part = {"type": "text", "text": "a"}
    for num_parts, status in ((12, 200), (13, 400)):
        contents = [[part] * (num_parts - 5), [part] * 5]
        messages = [{"role": "user", "content": content} for content in contents]
        answer = post(app, CHAT, {"messages": messages, "max_tokens": 1})
        assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == "messages"
    assert "must hold at most 12 parts on this server, got 13: join their texts" in error["message"]


def test_bodies_full_of_messages_are_refused_before_they_are_rendered() -> None:
    body = json.dumps(chat(*["a"] * 100_000)).encode()
    assert 2 * 2**20 < len(body) < 4 * 2**20
    answer = post(make_app(), CHAT, body)
    assert answer.status_code == 400
    assert "at most 2048 messages on this server, got 100000" in answer.json()["error"]["message"]


def test_chats_that_hang_the_template_hold_up_no_other() -> None:
    engine = FakeEngine()
    app = create_app(engine, byte_tokenizer(HANGING), ServerConfig())

    async def work() -> None:
        async with http_client(app) as client:
            assert (await client.post(CHAT, json=chat("Hi"))).status_code == 200
            hanging = [asyncio.create_task(client.post(CHAT, json=chat("hang"))) for _ in range(12)]
            await asyncio.sleep(0.1)
            begin = time.monotonic()
            answer = await client.post(CHAT, json=chat("Hi"))
            took_s = time.monotonic() - begin
            # Other work that takes a thread, such as to write an upload to disk, has one at once.
            await asyncio.wait_for(asyncio.to_thread(time.monotonic), 1)
            assert answer.status_code == 200
            # One after the other they take 24 s. Each leaves the quick lane after half a second,
            # and two are there at once.
            assert took_s < 12
            assert not all(task.done() for task in hanging)
            for task in hanging:
                task.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)

    run(work())


def test_the_event_loop_goes_on_while_a_long_text_is_tokenized() -> None:
    app = make_app(FakeEngine(max_model_len=10_000_000))

    async def work() -> tuple[httpx.Response, float]:
        async with http_client(app) as client:
            body = {"prompt": "hello world " * 100_000, "max_tokens": 1}
            long = asyncio.create_task(client.post("/v1/completions", json=body))
            longest, last = 0.0, time.monotonic()
            while not long.done():
                await asyncio.sleep(0.005)
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
            return long.result(), longest

    begin = time.monotonic()
    answer, longest_s = run(work())
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["prompt_tokens"] == 1_200_001
    # To tokenize it takes most of the time; on one thread with the loop, it would be one gap.
    assert longest_s < 0.5 * (time.monotonic() - begin)
