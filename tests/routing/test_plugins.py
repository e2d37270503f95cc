"""Plugins of a decision, over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from flaxen.router.decisions.tree import SignalKey
from flaxen.router.request import RoutedRequest
from flaxen.router.signals.found import Found
from tests.routing.fakes import FakeProxy, make_proxy, metric, with_plugins
from tests.server.clients import post

SUM = {"model": "auto", "messages": [{"role": "user", "content": "the sum of 1 and 2"}]}
CHATS = "/v1/chat/completions"


def make(*plugins: str) -> FakeProxy:
    return make_proxy(edit=with_plugins(*plugins))


def test_a_fixed_answer_asks_no_model() -> None:
    proxy = make("{type: fast_response, configuration: {message: No sums here.}}")
    answer = post(proxy.app, CHATS, SUM)
    assert answer.json()["choices"][0]["message"]["content"] == "No sums here."
    assert answer.headers["x-vsr-response-path"] == "fast_response"
    assert answer.headers["x-vsr-selected-decision"] == "math"
    assert "x-vsr-selected-model" not in answer.headers
    assert not any(each.calls for each in proxy.upstreams.values())


def test_a_body_and_headers_are_changed_for_the_model() -> None:
    header = "{name: x-team, value: sums}"
    plugins = (
        "{type: system_prompt, configuration: {system_prompt: Be exact.}}, "
        f"{{type: header_mutation, configuration: {{add: [{header}], delete: [x-other]}}}}"
    )
    proxy = make(plugins)
    post(proxy.app, CHATS, SUM, headers={"x-other": "1"})
    (call,), (body,) = proxy.upstreams["large"].calls, proxy.upstreams["large"].bodies
    assert body["messages"][0] == {"role": "system", "content": "Be exact."}
    assert (dict(call.headers)["x-team"], dict(call.headers).get("x-other")) == ("sums", None)


class Failing:
    """A model for signals that fails."""

    async def find(self, request: RoutedRequest, wanted: Any) -> Mapping[SignalKey, Found]:
        assert list(wanted) == [("jailbreak", "any")]
        raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    ("action", "status", "asked"), [("action: block", 503, []), ("on_unknown: no_match", 200, [1])]
)
def test_a_guard_whose_signal_is_unknown(action: str, status: int, asked: list[int]) -> None:
    rule = "signals:\n    jailbreak: [{name: any, threshold: 0.5}]"
    plugin = f"{{type: jailbreak, configuration: {{rule: any, {action}}}}}"
    proxy = make_proxy(
        edit=lambda text: text.replace("signals:", rule, 1).replace(
            "{model: other}]", "{model: other}]\n      plugins: [" + plugin + "]"
        ),
        learned=Failing(),
    )
    answer = post(proxy.app, CHATS, SUM)
    assert answer.status_code == status
    assert answer.headers["x-vsr-response-warnings"] == "unknown_signals"
    assert answer.headers["x-vsr-unknown-signals"] == "jailbreak:any"
    assert [1 for _ in proxy.upstreams["large"].calls] == asked


@pytest.mark.parametrize(("policy", "status"), [("fail_request", 503), ("no_match", 200)])
def test_a_decision_whose_signal_is_unknown(policy: str, status: int) -> None:
    rule = "signals:\n    jailbreak: [{name: any, threshold: 0.5}]"
    leaf = "{type: keyword, name: sums}"
    proxy = make_proxy(
        edit=lambda text: text.replace("signals:", rule, 1).replace(
            f"[{leaf}]", f"[{leaf}, {{type: jailbreak, name: any}}], on_unknown: {policy}"
        ),
        learned=Failing(),
    )
    answer = post(proxy.app, CHATS, SUM)
    assert answer.status_code == status
    if status == 200:
        assert answer.headers["x-vsr-selected-model"] == "small"
        assert answer.headers["x-vsr-response-warnings"] == "no_decision,unknown_signals"
    else:
        assert answer.json()["error"]["message"] == (
            "these signals are unknown, and on_unknown is fail_request: jailbreak:any"
        )
        unknown = '{signal_name="any",signal_type="jailbreak"}'
        assert metric(proxy, f"llm_signal_unknown_total{unknown}") == 1
        assert metric(proxy, 'llm_request_errors_total{reason="decision_unresolved"}') == 1
        assert metric(proxy, 'llm_decision_match_total{decision_name="math"}') == 0
