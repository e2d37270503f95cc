"""Which model answers, and what its client is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.routing.fakes import FakeProxy, make_proxy, metric
from tests.server.clients import get, post

SUM = {"model": "auto", "messages": [{"role": "user", "content": "the sum of 1 and 2"}]}
HELLO = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}
CHATS = "/v1/chat/completions"


def asked(proxy: FakeProxy) -> dict[str, int]:
    return {name: len(each.calls) for name, each in proxy.upstreams.items() if each.calls}


def test_a_decision_selects_the_model() -> None:
    proxy = make_proxy()
    answer = post(proxy.app, CHATS, SUM)
    assert (answer.status_code, answer.json()) == (200, {"text": "ok"})
    assert asked(proxy) == {"large": 1}
    assert proxy.upstreams["large"].bodies == [SUM | {"model": "large"}]
    told = {name: value for name, value in answer.headers.items() if name.startswith("x-vsr-")}
    assert told == {
        "x-vsr-schema-version": "2",
        "x-vsr-response-path": "upstream",
        "x-vsr-selected-recipe": "default",
        "x-vsr-selected-decision": "math",
        "x-vsr-selected-confidence": "1.0000",
        "x-vsr-selected-algorithm": "static",
        "x-vsr-selected-model": "large",
    }
    assert answer.headers["x-own"] == "kept"


def test_a_prediction_goes_to_the_model_as_it_came() -> None:
    proxy = make_proxy()
    body = SUM | {"prediction": {"type": "content", "content": [{"type": "text", "text": "3"}]}}
    assert post(proxy.app, CHATS, body).status_code == 200
    assert proxy.upstreams["large"].bodies == [body | {"model": "large"}]


def test_without_a_decision_the_default_model_answers_and_says_so() -> None:
    proxy = make_proxy()
    answer = post(proxy.app, CHATS, HELLO)
    assert asked(proxy) == {"small": 1}
    assert answer.headers["x-vsr-response-warnings"] == "no_decision"
    assert answer.headers["x-vsr-selected-algorithm"] == "default"
    assert "x-vsr-selected-decision" not in answer.headers


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "a sum"}),
        ("/v1/responses", {"input": "a sum"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "a sum"}], "max_tokens": 5}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "a sum"}]}),
        ("/v1/embeddings", {"input": ["a sum"]}),
        ("/chat/completions", {"messages": [{"role": "user", "content": "a sum"}]}),
    ],
)
def test_every_api_is_decided(path: str, body: dict[str, Any]) -> None:
    proxy = make_proxy()
    answer = post(proxy.app, path, body | {"model": "helper"})
    assert answer.headers["x-vsr-selected-decision"] == "math"
    (call,) = proxy.upstreams["large"].calls
    assert (call.path, json.loads(call.body)) == (path, body | {"model": "large"})


def test_a_concrete_model_passes_byte_for_byte() -> None:
    proxy = make_proxy()
    raw = b'{ "messages":[{"role":"user","content":"the sum \\u00e9"}],  "model": "small", "x":1.0}'
    answer = post(proxy.app, CHATS, raw)
    assert proxy.upstreams["small"].calls[0].body == raw
    told = sorted(name for name in answer.headers if name.startswith("x-vsr-"))
    assert told == ["x-vsr-response-path", "x-vsr-schema-version"]


def test_a_server_may_have_another_name_for_a_model() -> None:
    proxy = make_proxy()
    post(proxy.app, CHATS, HELLO | {"model": "other"})
    assert proxy.upstreams["other"].bodies == [HELLO | {"model": "org/other-7b"}]


def test_an_unknown_model_is_a_404() -> None:
    answer = post(make_proxy().app, CHATS, HELLO | {"model": "nobody"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    answer = post(make_proxy().app, CHATS, {"messages": []})
    assert answer.status_code == 404


@pytest.mark.parametrize("path", [CHATS, "/v1/messages"])
def test_an_error_has_the_form_of_its_api(path: str) -> None:
    answer = post(make_proxy().app, path, {"model": "auto", "messages": "no list"})
    assert answer.status_code == 400
    assert answer.headers["x-vsr-response-path"] == "error"
    error = answer.json()
    assert error.get("type") == ("error" if path == "/v1/messages" else None)
    assert error["error"]["message"] == (
        "the request can't be classified: messages must be a list of objects, got 'no list'"
    )


def test_requests_that_are_refused_while_deciding_are_counted() -> None:
    proxy = make_proxy()
    post(proxy.app, CHATS, {"model": "auto", "messages": "no list"})
    assert metric(proxy, 'llm_request_errors_total{reason="invalid_value"}') == 1


def test_what_no_signal_can_read_is_told() -> None:
    parts = [{"type": "text", "text": "the sum"}, {"type": "file", "file": {"file_id": "x"}}]
    body = {"model": "auto", "messages": [{"role": "user", "content": parts}]}
    answer = post(make_proxy().app, CHATS, body)
    assert answer.headers["x-vsr-response-warnings"] == "unread_content"
    assert answer.headers["x-vsr-unread-content"] == "file"


def test_a_header_can_not_be_forged_by_a_role() -> None:
    body = {"model": "auto", "messages": [{"role": "a\r\nset-cookie: x\u00e9", "content": "sum"}]}
    answer = post(make_proxy().app, CHATS, body)
    assert "set-cookie" not in answer.headers
    told = answer.headers["x-vsr-unread-content"]
    assert told == "role a%0D%0Aset-cookie: x%C3%A9"


def test_debug_names_the_signals_that_matched() -> None:
    answer = post(make_proxy().app, CHATS, SUM, headers={"x-vsr-debug": "true"})
    assert answer.headers["x-vsr-matched-keywords"] == "sums"


def test_models_are_listed_behind_the_names_that_are_decided() -> None:
    listed = get(make_proxy().app, "/v1/models").json()["data"]
    assert [each["id"] for each in listed] == ["helper", "vllm-sr/auto", "auto", "MoM"]
    assert listed[0]["routing"] == {
        "resolution": "virtual",
        "selectable": True,
        "default_route": True,
        "recipe": "default",
    }
    more = "global: {router: {include_config_models_in_list: true}}"
    listed = get(make_proxy(more).app, "/v1/models").json()["data"]
    assert [each["id"] for each in listed[4:]] == ["small", "large", "other"]


def test_one_model_is_described() -> None:
    app = make_proxy().app
    listed = get(app, "/v1/models").json()["data"]
    for each in listed:
        assert get(app, f"/v1/models/{each['id']}").json() == each
    assert get(app, "/v1/models/small").json()["routing"] == {"resolution": "passthrough"}
    assert get(app, "/v1/models/nobody").status_code == 404


def test_the_routers_key_does_not_reach_the_model() -> None:
    proxy = make_proxy(api_keys=("secret",))
    assert post(proxy.app, CHATS, SUM).status_code == 401
    answer = post(proxy.app, CHATS, SUM, headers={"authorization": "Bearer secret"})
    assert answer.status_code == 200
    sent = dict(proxy.upstreams["large"].calls[0].headers)
    assert "authorization" not in sent
    proxy = make_proxy()
    post(proxy.app, CHATS, SUM, headers={"authorization": "Bearer theirs"})
    assert dict(proxy.upstreams["large"].calls[0].headers)["authorization"] == "Bearer theirs"


def test_health_and_version() -> None:
    app = make_proxy().app
    assert get(app, "/health").json() == {"status": "ok"}
    assert get(app, "/version").status_code == 200
