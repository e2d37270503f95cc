"""Copies of requests to other models."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from tests.routing.fakes import FakeProxy, broken, make_proxy, metric, with_plugins
from tests.server.clients import http_client, post, run

SUM = {"model": "auto", "messages": [{"role": "user", "content": "the sum of 1 and 2"}]}
CHATS = "/v1/chat/completions"


def make(settings: str = "") -> FakeProxy:
    configuration = f"{{enabled: true, model: small, {settings}}}"
    return make_proxy(
        edit=with_plugins(f"{{type: shadow_dispatch, configuration: {configuration}}}")
    )


def outcome(proxy: FakeProxy, name: str) -> float:
    labels = f'{{model="small",outcome="{name}"}}'
    return metric(proxy, f"llm_shadow_dispatches_total{labels}")


def ask(proxy: FakeProxy, num: int = 1, *, wait_s: float = 0.0, **headers: str) -> list[Any]:
    """Asks at once, and waits until the copies have ended, or so many seconds."""

    async def work() -> list[Any]:
        async with http_client(proxy.app) as client:
            body = SUM | {"stream": True}
            asked = (client.post(CHATS, json=body, headers=headers) for _ in range(num))
            answers = await asyncio.gather(*asked)
            until = time.monotonic() + (wait_s or 10)
            while proxy.service.shadows._tasks and time.monotonic() < until:
                await asyncio.sleep(0.01)
            return answers

    return run(work())


def test_a_copy_has_the_body_but_no_header_of_the_client() -> None:
    proxy = make()
    ask(proxy, authorization="Bearer theirs", cookie="a=b")
    (call,) = proxy.upstreams["small"].calls
    assert (call.path, json.loads(call.body)) == (CHATS, SUM | {"model": "small"})
    length = ("content-length", str(len(call.body)))
    assert call.headers == (("content-type", "application/json"), length)
    assert call.scope["state"]["log"].status == 0
    assert (outcome(proxy, "answered"), proxy.upstreams["small"].num_open) == (1, 0)
    assert proxy.upstreams["large"].bodies == [SUM | {"model": "large", "stream": True}]


@pytest.mark.parametrize(
    ("settings", "answers", "told", "num_asked"),
    [
        ("max_retries: 2", [broken()], "failed", 3),
        ("max_retries: 1", [(503, {}), (200, {"a": 1})], "answered", 2),
        ("max_retries: 1", [(400, {})], "refused", 1),
        ("max_response_bytes: 9", [(200, {"text": "long"})], "too_large", 1),
        ("sample_rate: 0.0", [(200, {})], "none", 0),
    ],
)
def test_what_becomes_of_a_copy_is_counted(
    settings: str, answers: list[Any], told: str, num_asked: int
) -> None:
    proxy = make(settings)
    proxy.upstreams["small"].answers = answers
    (answer,) = ask(proxy)
    assert (answer.status_code, answer.json()) == (200, {"text": "ok"})
    assert (len(proxy.upstreams["small"].calls), outcome(proxy, told)) == (num_asked, num_asked > 0)
    assert proxy.upstreams["small"].num_open == 0
    assert not proxy.service.dispatcher.observed["small"].breaker._num_failures


def test_a_slow_copy_does_not_delay_the_answer_and_ends() -> None:
    proxy = make("timeout_seconds: 1")
    proxy.upstreams["small"].delay_s = 30
    begin_s = time.monotonic()
    ask(proxy, wait_s=0.05)
    assert time.monotonic() - begin_s < 1
    ask(proxy)
    assert (outcome(proxy, "timeout"), proxy.upstreams["small"].num_open) == (1, 0)


def test_copies_are_bounded() -> None:
    proxy = make("max_concurrency: 1, max_queue_depth: 2")
    proxy.upstreams["small"].delay_s = 0.1
    begin_s = time.monotonic()
    assert len(ask(proxy, 5)) == 5
    assert time.monotonic() - begin_s >= 0.3  # one after the other
    assert (outcome(proxy, "answered"), outcome(proxy, "dropped")) == (3, 2)
    assert proxy.service.shadows._lanes == {}


def test_a_request_that_no_model_answers_has_no_copy() -> None:
    proxy = make()
    for name in ("large", "other"):
        proxy.upstreams[name].answers = [broken()]
    assert post(proxy.app, CHATS, SUM).status_code == 502
    assert proxy.upstreams["small"].calls == []


def test_a_count_of_tokens_has_no_copy() -> None:
    proxy = make()
    assert post(proxy.app, "/v1/messages/count_tokens", SUM).status_code == 200
    assert (len(proxy.upstreams["large"].calls), proxy.upstreams["small"].calls) == (1, [])
