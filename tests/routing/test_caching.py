"""Answers from the cache, over HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.routing.fakes import FakeProxy, broken, make_proxy, metric, with_plugins
from tests.server.clients import http_client, post, run

SUM = {"model": "auto", "messages": [{"role": "user", "content": "the sum of 1 and 2"}]}
CHATS = "/v1/chat/completions"
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "large",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "3"},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
}


def chunk(**more: Any) -> bytes:
    shared = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "large"}
    return f"data: {json.dumps(shared | more)}\n\n".encode()


def choice(reason: str | None, **delta: str) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}]


STREAM = [
    chunk(choices=choice(None, role="assistant", content="3")),
    chunk(choices=choice("stop")),
    chunk(choices=[], usage=ANSWER["usage"]),
    b"data: [DONE]\n\n",
]
STREAMED = SUM | {"stream": True, "stream_options": {"include_usage": True}}


def make(
    settings: str = "scope: global", *, more: str = "", beside: str = "", answers: Any = None
) -> FakeProxy:
    """A router whose decision keeps answers; `beside` is what else the decision has."""
    plugin = f"{{type: response_cache, configuration: {{mode: exact, {settings}}}}}"
    edit = with_plugins(plugin)
    own = "    - name: math\n"
    proxy = make_proxy(
        more, edit=lambda text: edit(text).replace(own, f"{own}      {beside}\n" if beside else own)
    )
    proxy.upstreams["large"].answers = [(200, ANSWER)] if answers is None else answers
    return proxy


def num_asked(proxy: FakeProxy) -> int:
    return sum(len(each.calls) for each in proxy.upstreams.values())


def content_of(answer: Any) -> list[str]:
    """What a streamed answer says."""
    data = [line[6:] for line in answer.text.split("\n\n") if line]
    assert data[-1] == "[DONE]"
    chunks = [json.loads(each) for each in data[:-1]]
    return [
        c["delta"]["content"] for each in chunks for c in each["choices"] if "content" in c["delta"]
    ]


def test_the_second_request_is_answered_without_a_model_in_either_form() -> None:
    proxy = make()
    assert post(proxy.app, CHATS, SUM).headers["x-vsr-response-path"] == "upstream"
    answer = post(proxy.app, CHATS, SUM)
    assert (answer.json(), num_asked(proxy)) == (ANSWER, 1)
    told = {name: value for name, value in answer.headers.items() if name.startswith("x-vsr-")}
    assert told == {
        "x-vsr-schema-version": "2",
        "x-vsr-response-path": "cache",
        "x-vsr-cache-hit": "true",
        "x-vsr-selected-recipe": "default",
        "x-vsr-selected-decision": "math",
        "x-vsr-selected-confidence": "1.0000",
    }
    answer = post(proxy.app, CHATS, STREAMED)
    assert (content_of(answer), num_asked(proxy)) == (["3"], 1)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert metric(proxy, 'llm_cache_plugin_hits_total{decision_name="math"}') == 2
    assert metric(proxy, 'llm_cache_plugin_misses_total{decision_name="math"}') == 1
    assert metric(proxy, "llm_router_cache_entries") == 1


def test_a_stream_is_kept_and_answers_in_either_form() -> None:
    proxy = make(answers=[STREAM])
    assert post(proxy.app, CHATS, STREAMED).content == b"".join(STREAM)
    assert post(proxy.app, CHATS, SUM).json() == ANSWER
    assert content_of(post(proxy.app, CHATS, STREAMED)) == ["3"]
    assert num_asked(proxy) == 1


@pytest.mark.parametrize(
    "answers",
    [
        [STREAM[:-1]],  # it did not end
        [[*STREAM[:2], broken()]],
        [(400, {"error": {"message": "no"}})],
        [(200, {"text": "no answer of this API"})],
    ],
)
def test_what_is_not_finished_is_not_kept(answers: list[Any]) -> None:
    proxy = make(answers=answers)
    for _ in range(2):
        post(proxy.app, CHATS, STREAMED)
    assert len(proxy.upstreams["large"].calls) == 2
    assert metric(proxy, "llm_router_cache_entries") == 0


def test_the_answer_of_another_model_is_not_kept() -> None:
    proxy = make(answers=[broken(), (200, ANSWER)])
    proxy.upstreams["other"].answers = [(200, ANSWER | {"model": "other"})]
    assert post(proxy.app, CHATS, SUM).headers["x-vsr-selected-model"] == "other"
    assert post(proxy.app, CHATS, SUM).headers["x-vsr-selected-model"] == "large"
    assert post(proxy.app, CHATS, SUM).headers["x-vsr-response-path"] == "cache"


def test_the_same_requests_at_once_ask_a_model_once() -> None:
    proxy = make()
    proxy.upstreams["large"].delay_s = 0.2

    async def work() -> list[Any]:
        async with http_client(proxy.app) as client:
            asked = [SUM, STREAMED, SUM]
            return await asyncio.gather(*(client.post(CHATS, json=each) for each in asked))

    first, streamed, other = run(work())
    assert (first.json(), content_of(streamed), other.json()) == (ANSWER, ["3"], ANSWER)
    assert num_asked(proxy) == 1


def test_where_the_first_fails_or_leaves_the_next_asks_itself() -> None:
    proxy = make(answers=[[*STREAM[:2], broken()], STREAM])
    proxy.upstreams["large"].delay_s = 0.1

    async def fail() -> list[Any]:
        async with http_client(proxy.app) as client:
            asked = (client.post(CHATS, json=STREAMED) for _ in range(3))
            return await asyncio.gather(*asked)

    contents = [answer.text.count("broke off") for answer in run(fail())]
    assert (sorted(contents), num_asked(proxy)) == ([0, 0, 1], 2)

    proxy = make(answers=[STREAM])
    proxy.upstreams["large"].delay_s = 0.1

    async def leave() -> Any:
        async with http_client(proxy.app) as client:
            first = asyncio.create_task(client.post(CHATS, json=STREAMED))
            await asyncio.sleep(0.05)
            second = asyncio.create_task(client.post(CHATS, json=STREAMED))
            await asyncio.sleep(0.05)
            first.cancel()
            return await second

    assert (content_of(run(leave())), num_asked(proxy)) == (["3"], 2)


def test_nobody_gets_the_answer_of_another_tenant() -> None:
    proxy = make("scope: tenant")

    def path(**headers: str) -> str:
        named = {f"x-authz-{name}-id": value for name, value in headers.items()}
        return post(proxy.app, CHATS, SUM, headers=named).headers["x-vsr-response-path"]

    assert path(tenant="a", user="1") == "upstream"
    assert path(tenant="a", user="2") == "cache"
    assert path(tenant="b", user="1") == "upstream"
    assert [path(user="1"), path(user="1")] == ["upstream", "upstream"]  # nobody knows whose it is


def test_clients_may_ask_past_the_cache_where_that_is_allowed() -> None:
    proxy = make("scope: global, request_controls: {enabled: true, allowed: [no-cache, no-store]}")

    def path(control: str) -> str:
        answer = post(proxy.app, CHATS, SUM, headers={"x-vsr-cache-control": control})
        return answer.headers["x-vsr-response-path"]

    assert [path("no-store"), path(""), path("")] == ["upstream", "upstream", "cache"]
    assert [path("no-store"), path("no-cache"), path("no-cache, no-store")] == [
        "cache",
        "upstream",
        "upstream",
    ]
    answer = post(proxy.app, CHATS, SUM, headers={"x-vsr-cache-control": "ttl=5"})
    assert (answer.status_code, num_asked(proxy)) == (400, 4)
    assert answer.json()["error"]["message"].startswith("x-vsr-cache-control may be no-cache, no-")


def test_nobody_waits_for_an_answer_that_is_not_kept() -> None:
    proxy = make("scope: global, request_controls: {enabled: true}")
    proxy.upstreams["large"].delay_s = 0.3

    async def work() -> None:
        async with http_client(proxy.app) as client:
            not_kept = {"x-vsr-cache-control": "no-store"}
            first = asyncio.create_task(client.post(CHATS, json=SUM, headers=not_kept))
            await asyncio.sleep(0.1)
            second = asyncio.create_task(client.post(CHATS, json=SUM))
            await asyncio.sleep(0.1)
            assert (num_asked(proxy), first.done()) == (2, False)
            await asyncio.gather(first, second)

    run(work())


def test_counting_tokens_does_not_get_a_message() -> None:
    proxy = make()
    message = {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": "3"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    proxy.upstreams["large"].answers = [(200, message), (200, {"input_tokens": 9})]
    body = SUM | {"max_tokens": 5}
    assert post(proxy.app, "/v1/messages", body).json() == message
    assert post(proxy.app, "/v1/messages/count_tokens", body).json() == {"input_tokens": 9}
    assert post(proxy.app, "/v1/messages", body).json() == message
    assert num_asked(proxy) == 2


@pytest.mark.parametrize("how", ["retention", "store", "plugin"])
def test_the_cache_can_be_off(how: str) -> None:
    store = "global: {stores: {response_cache: {enabled: false}}}" if how == "store" else ""
    settings = f"scope: global, enabled: {str(how != 'plugin').lower()}"
    retention = "emits: [{kind: retention, retention: {drop: true}}]"
    proxy = make(settings, more=store, beside=retention if how == "retention" else "")
    for _ in range(2):
        assert post(proxy.app, CHATS, SUM).headers["x-vsr-response-path"] == "upstream"


def test_turns_stand_for_a_time_that_comes_before_others() -> None:
    retention = "emits: [{kind: retention, retention: {ttl_turns: 1}}]"
    proxy = make("scope: global, ttl_seconds: 0", beside=retention)
    paths = [post(proxy.app, CHATS, SUM).headers["x-vsr-response-path"] for _ in range(2)]
    assert paths == ["upstream", "cache"]


def test_an_entry_is_too_old_after_its_time() -> None:
    proxy = make("scope: global, ttl_seconds: 0")
    for _ in range(2):
        assert post(proxy.app, CHATS, SUM).headers["x-vsr-response-path"] == "upstream"


def test_the_models_server_does_not_compress_what_is_kept() -> None:
    proxy = make()
    post(proxy.app, CHATS, SUM)
    assert dict(proxy.upstreams["large"].calls[0].headers)["accept-encoding"] == "identity"
