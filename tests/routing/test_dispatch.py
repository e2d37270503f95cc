"""What happens where models fail, are slow or busy, and where clients leave."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message, Scope

from flaxen.router_config.fallback import CircuitBreaker
from flaxen.routing.observed import Breaker, Observed
from flaxen.routing.upstream import Call
from tests.routing.fakes import FakeProxy, broken, make_proxy
from tests.server.clients import http_client, post, run

SUM = {"model": "auto", "messages": [{"role": "user", "content": "the sum of 1 and 2"}]}
CHATS = "/v1/chat/completions"
EVENTS = [b'data: {"a": 1}\n\n', b'data: {"a": 2}\n\n', b"data: [DONE]\n\n"]
QUICK = """
  fallback:
    total_timeout: 300ms
    per_attempt_timeout: 100ms
    circuit_breaker: {consecutive_failures: 2, cooldown_period: 150ms}
"""


def asked(proxy: FakeProxy) -> list[str]:
    return [name for name, each in proxy.upstreams.items() for _ in each.calls]


@pytest.mark.parametrize("failure", [broken(), (503, {"error": "busy"}), (429, {}), [broken()]])
def test_another_model_of_the_decision_answers_for_one_that_fails(failure: Any) -> None:
    proxy = make_proxy()
    proxy.upstreams["large"].answers = [failure]
    answer = post(proxy.app, CHATS, SUM)
    assert (answer.status_code, answer.json()) == (200, {"text": "ok"})
    assert asked(proxy) == ["large", "other"]
    assert answer.headers["x-vsr-selected-model"] == "other"
    assert answer.headers["x-vsr-response-warnings"] == "failover"
    assert [each.num_open for each in proxy.upstreams.values()] == [0, 0, 0]
    assert [each.num_in_flight for each in proxy.service.dispatcher.observed.values()] == [0, 0]


def test_an_error_of_the_request_is_passed_and_not_tried_again() -> None:
    proxy = make_proxy()
    proxy.upstreams["large"].answers = [(400, {"error": {"message": "no"}})]
    answer = post(proxy.app, CHATS, SUM)
    assert (answer.status_code, answer.json()) == (400, {"error": {"message": "no"}})
    assert asked(proxy) == ["large"]


def test_where_all_fail_the_last_error_or_all_reasons_are_told() -> None:
    proxy = make_proxy()
    proxy.upstreams["large"].answers = [(503, {"n": 1})]
    proxy.upstreams["other"].answers = [(503, {"n": 2})]
    answer = post(proxy.app, CHATS, SUM)
    assert (answer.status_code, answer.json()) == (503, {"n": 2})
    for name in ("large", "other"):
        proxy.upstreams[name].answers = [broken()]
    answer = post(proxy.app, CHATS, SUM)
    assert answer.status_code == 502
    assert answer.json()["error"]["message"] == (
        "no model answered: large: connection refused; other: connection refused"
    )


def test_a_slow_model_is_replaced_and_its_request_ends() -> None:
    proxy = make_proxy(QUICK)
    proxy.upstreams["large"].delay_s = 5
    answer = post(proxy.app, CHATS, SUM)
    assert answer.headers["x-vsr-selected-model"] == "other"
    assert proxy.upstreams["large"].num_open == 0
    proxy.upstreams["other"].delay_s = 5
    answer = post(proxy.app, CHATS, SUM)
    assert answer.status_code == 504
    assert "other: it did not begin to answer within 0.1 s" in answer.text


def test_nothing_is_tried_again_after_the_first_byte() -> None:
    proxy = make_proxy()
    proxy.upstreams["large"].answers = [[EVENTS[0], b'data: {"cut', broken()]]
    answer = post(proxy.app, CHATS, SUM)
    assert answer.status_code == 200
    assert asked(proxy) == ["large"]
    whole, cut, error, *_ = answer.text.split("\n\n")
    assert (whole, cut) == ('data: {"a": 1}', 'data: {"cut')
    told = json.loads(error.removeprefix("data: "))["error"]
    assert told["message"] == "the answer broke off: connection refused"


def test_a_broken_stream_of_messages_ends_with_their_event() -> None:
    proxy = make_proxy()
    proxy.upstreams["large"].answers = [[EVENTS[0], broken()]]
    body = {"model": "auto", "max_tokens": 5, "messages": SUM["messages"]}
    answer = post(proxy.app, "/v1/messages", body)
    assert answer.text.split("\n\n")[2].startswith('event: error\ndata: {"type":"error"')


def test_a_stream_that_stops_is_ended() -> None:
    proxy = make_proxy(QUICK)
    proxy.upstreams["large"].answers = [EVENTS]
    proxy.upstreams["large"].delay_s = 0.04  # longer in all than the limit, not each
    assert post(proxy.app, CHATS, SUM).text == "".join(map(bytes.decode, EVENTS))

    async def stopping(call: Call) -> Any:
        answer = await send(call)
        proxy.upstreams["large"].delay_s = 5
        return answer

    send = proxy.upstreams["large"].send
    proxy.upstreams["large"].send = stopping  # type: ignore[method-assign]
    assert "the answer broke off: nothing came for 0.1 s" in post(proxy.app, CHATS, SUM).text


def test_a_circuit_opens_and_a_probe_closes_it() -> None:
    proxy = make_proxy(QUICK)
    large = proxy.upstreams["large"]
    large.answers = [broken()]
    for _ in range(3):
        assert post(proxy.app, CHATS, SUM).status_code == 200
    assert len(large.calls) == 2  # the third found the circuit open
    large.answers = [(200, {"text": "back"})]
    run(asyncio.sleep(0.2))
    assert post(proxy.app, CHATS, SUM).json() == {"text": "back"}
    assert post(proxy.app, CHATS, SUM).json() == {"text": "back"}


def test_a_circuit_by_its_clock() -> None:
    settings = CircuitBreaker(consecutive_failures=2, cooldown_period="10s", half_open_probes=1)
    breaker = Breaker()
    breaker.end(breaker.begin(), False, 0, settings)
    breaker.end(breaker.begin(), None, 1, settings)  # a client that left says nothing
    assert not breaker.is_open(1, settings)
    breaker.end(breaker.begin(), False, 2, settings)
    assert breaker.is_open(11.9, settings)
    assert not breaker.is_open(12, settings)
    assert breaker.begin()
    assert breaker.is_open(12, settings)  # one probe at a time
    breaker.end(True, False, 13, settings)
    assert breaker.is_open(22.9, settings)
    breaker.end(breaker.begin(), True, 23, settings)
    assert not breaker.is_open(23, settings)


def test_percentiles_are_of_what_was_seen_lately() -> None:
    seen, settings = Observed(), CircuitBreaker()
    assert seen.live(0, settings).ttft_ms.get(95) is None
    for value in range(1, 101):
        seen.ttft.add(value, float(value))
    live = seen.live(100, settings)
    assert [live.ttft_ms[each] for each in (1, 50, 95, 100)] == [1.0, 50.0, 95.0, 100.0]
    assert seen.live(690, settings).ttft_ms[1] == 90.0
    assert dict(seen.live(701, settings).ttft_ms) == {}


def test_the_latencies_of_streams_are_measured() -> None:
    proxy = make_proxy()
    proxy.upstreams["large"].answers = [EVENTS]
    proxy.upstreams["large"].delay_s = 0.02
    post(proxy.app, CHATS, SUM)
    live = proxy.service.dispatcher.observed["large"].live(0, CircuitBreaker())
    assert 20 <= live.ttft_ms[50] < 1_000
    assert 20 <= live.tpot_ms[50] < 1_000


def test_a_client_that_leaves_ends_the_request_at_the_model() -> None:
    async def work() -> None:
        proxy = make_proxy()
        large = proxy.upstreams["large"]
        large.answers = [EVENTS]
        large.delay_s = 30
        leaves = asyncio.Event()
        sent: list[Message] = []
        body: list[Message] = [{"type": "http.request", "body": json.dumps(SUM).encode()}]

        async def receive() -> Message:
            if body:
                return body.pop()
            await leaves.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        scope: Scope = {
            "type": "http",
            "method": "POST",
            "path": CHATS,
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }
        running = asyncio.create_task(proxy.app(scope, receive, send))
        while not large.num_open:
            await asyncio.sleep(0.001)
        leaves.set()
        await running
        assert large.num_open == 0
        assert sent == []
        assert proxy.service.num_running == 0
        assert proxy.service.dispatcher.observed["large"].num_in_flight == 0

    run(work())


def test_what_waits_is_bounded() -> None:
    async def work() -> None:
        proxy = make_proxy()
        proxy.upstreams["large"].delay_s = 0.2
        proxy.service.max_open = proxy.service.max_waiting = 1
        proxy.service.__post_init__()
        async with http_client(proxy.app) as client:
            answers = await asyncio.gather(*(client.post(CHATS, json=SUM) for _ in range(4)))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429]
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["message"] == (
            "1 requests are answered, and 1 wait, the most that this router keeps"
        )

    run(work())


def test_a_request_has_a_longest_time() -> None:
    proxy = make_proxy(request_timeout_s=0.05)
    proxy.upstreams["large"].delay_s = 5
    answer = post(proxy.app, CHATS, SUM)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert proxy.upstreams["large"].num_open == 0


def test_a_router_that_ends_takes_no_more_and_waits_for_the_rest() -> None:
    async def work() -> None:
        proxy = make_proxy()
        proxy.upstreams["large"].delay_s = 0.2
        async with http_client(proxy.app) as client:
            running = asyncio.create_task(client.post(CHATS, json=SUM))
            while not proxy.service.num_running:
                await asyncio.sleep(0.001)
            closing = asyncio.create_task(proxy.service.close(5))
            await asyncio.sleep(0)
            assert (await client.post(CHATS, json=SUM)).status_code == 503
            assert (await client.get("/health")).status_code == 503
            await closing
            assert (await running).status_code == 200

    run(work())
