"""Servers that know one API alone, requests that skip decisions, and counts of tokens."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.router_config.models import BackendRef, ProviderModel
from flaxen.routing.http_upstream import backends_of
from tests.routing.fakes import FakeProxy, make_proxy, with_plugins
from tests.server.clients import post

SUM = {"model": "auto", "messages": [{"role": "user", "content": "the sum of 1 and 2"}]}
CHATS, MESSAGES = "/v1/chat/completions", "/v1/messages"
SKIP = {"x-vsr-skip-processing": "true"}


def asked(proxy: FakeProxy) -> dict[str, list[Any]]:
    return {name: each.bodies for name, each in proxy.upstreams.items() if each.calls}


def with_anthropic(*models: str) -> FakeProxy:
    def edit(text: str) -> str:
        for name in models:
            text = text.replace(f"name: {name},", f"name: {name}, api_format: anthropic,")
        return text

    return make_proxy(edit=edit)


def test_a_server_of_anthropics_api_gets_messages_alone() -> None:
    proxy = with_anthropic("large")
    for path, model in ((MESSAGES, "large"), (f"{MESSAGES}/count_tokens", "large")):
        assert post(proxy.app, path, SUM).headers["x-vsr-selected-model"] == model
    assert post(proxy.app, CHATS, SUM).headers["x-vsr-selected-model"] == "other"
    (first, _) = proxy.upstreams["large"].calls
    assert dict(first.headers)["anthropic-version"] == "2023-06-01"
    given = {"anthropic-version": "2099-01-01"}
    post(proxy.app, MESSAGES, SUM, headers=given)
    assert dict(proxy.upstreams["large"].calls[-1].headers)["anthropic-version"] == "2099-01-01"
    assert "anthropic-version" not in dict(proxy.upstreams["other"].calls[0].headers)


def test_what_no_server_knows_is_refused() -> None:
    proxy = with_anthropic("large", "other")
    answer = post(proxy.app, CHATS, SUM)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == (
        "no model can answer this request: 0 candidates can answer, of at least 1: "
        "large: its server knows messages alone, and the request is of chat; "
        "other: its server knows messages alone, and the request is of chat"
    )
    answer = post(proxy.app, CHATS, SUM | {"model": "large"})  # it passes untouched
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == (
        "the server of large knows messages alone, no chat: ask another model, or POST /v1/messages"
    )
    assert asked(proxy) == {}
    assert post(proxy.app, MESSAGES, SUM | {"model": "large"}).status_code == 200


@pytest.mark.parametrize(
    ("api_format", "more", "expected"),
    [
        ("anthropic", {}, {"x-api-key": "k"}),
        ("anthropic", {"auth_header": "Authorization"}, {"authorization": "Bearer k"}),
        ("", {}, {"authorization": "Bearer k"}),
        ("openai", {"auth_header": "API-Key", "auth_prefix": ""}, {"api-key": "k"}),
    ],
)
def test_a_key_is_sent_as_its_server_reads_it(
    api_format: Any, more: dict[str, str], expected: dict[str, str]
) -> None:
    ref = BackendRef(base_url="https://api.anthropic.com", api_key="k", **more)  # type: ignore[arg-type]
    model = ProviderModel(name="m", backend_refs=(ref,), api_format=api_format)
    (backend,) = backends_of(model, {})
    assert dict(backend.headers) == expected
    assert backend.url(MESSAGES) == "https://api.anthropic.com/v1/messages"


def skipping(default: str = "small") -> FakeProxy:
    own = "global: {router: {skip_processing: {enabled: true}}}"
    plugin = with_plugins("{type: fast_response, configuration: {message: No sums here.}}")
    default = f"{{model: {default}}}" if default else "{}"
    return make_proxy(
        edit=lambda text: plugin(text).replace("{model: small}", default, 1) + f"\n{own}"
    )


@pytest.mark.parametrize("default", ["small", "other"])
def test_a_request_that_skips_decisions_has_the_default_model(default: str) -> None:
    proxy = skipping(default)
    answer = post(proxy.app, CHATS, SUM, headers=SKIP)
    there = "org/other-7b" if default == "other" else default
    assert (answer.json(), asked(proxy)) == ({"text": "ok"}, {default: [SUM | {"model": there}]})
    told = {name: value for name, value in answer.headers.items() if name.startswith("x-vsr-")}
    assert told == {
        "x-vsr-schema-version": "2",
        "x-vsr-response-path": "upstream",
        "x-vsr-response-warnings": "skip_processing",
    }


def test_what_does_not_skip_is_decided() -> None:
    for proxy, headers in ((skipping(), {}), (skipping(), {"x-vsr-skip-processing": "no"})):
        answer = post(proxy.app, CHATS, SUM, headers=headers)
        assert answer.headers["x-vsr-response-path"] == "fast_response"
    proxy = make_proxy()  # it is off
    assert post(proxy.app, CHATS, SUM, headers=SKIP).headers["x-vsr-selected-model"] == "large"
    answer = post(skipping().app, CHATS, SUM | {"model": "large"}, headers=SKIP)
    assert "x-vsr-response-warnings" not in answer.headers  # nothing was skipped
    answer = post(skipping("").app, CHATS, SUM, headers=SKIP)
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        400,
        "a request that skips decisions needs a providers.defaults.model",
    )


def test_tokens_are_counted_by_a_model_where_a_fixed_text_answers() -> None:
    proxy = make_proxy(
        edit=with_plugins("{type: fast_response, configuration: {message: No sums here.}}")
    )
    proxy.upstreams["large"].answers = [(200, {"input_tokens": 9})]
    answer = post(proxy.app, f"{MESSAGES}/count_tokens", SUM)
    assert answer.json() == {"input_tokens": 9}
    assert answer.headers["x-vsr-response-path"] == "upstream"
    answer = post(proxy.app, MESSAGES, SUM | {"max_tokens": 5})
    assert answer.json()["content"] == [{"type": "text", "text": "No sums here."}]
