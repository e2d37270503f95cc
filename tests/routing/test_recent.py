"""GET /api/v1/routing/decisions: what was decided lately."""

from __future__ import annotations

from typing import Any

from tests.routing.fakes import FakeProxy, broken, make_proxy
from tests.server.clients import get, post

CHAT, DECISIONS = "/v1/chat/completions", "/api/v1/routing/decisions"


def ask(proxy: FakeProxy, text: str, model: str = "helper") -> None:
    post(proxy.app, CHAT, {"model": model, "messages": [{"role": "user", "content": text}]})


def decisions(proxy: FakeProxy) -> list[dict[str, Any]]:
    told = get(proxy.app, DECISIONS).json()
    assert told["object"] == "list"
    found: list[dict[str, Any]] = told["data"]
    return found


def test_the_newest_is_first_and_no_text_is_there() -> None:
    proxy = make_proxy()
    assert decisions(proxy) == []
    ask(proxy, "the sum of 1 and 2")
    ask(proxy, "Good day")
    ask(proxy, "Good day", model="large")  # which is not decided
    default, math = decisions(proxy)
    assert {len(each.pop("id")) for each in (default, math)} == {32}
    assert default.pop("time") >= math.pop("time")
    assert min(default.pop("decide_ms"), math.pop("decide_ms")) > 0
    assert math == {
        "api": "chat",
        "requested_model": "helper",
        "decision": "math",
        "model": "large",
        "reason": "the greatest score, 1; the first of 2 with it",
        "path": "upstream",
        "warnings": [],
    }
    assert (default["decision"], default["model"]) == ("", "small")
    assert default["warnings"] == ["no_decision"]


def test_failures_are_told() -> None:
    proxy = make_proxy()
    proxy.upstreams["large"].answers = [broken()]
    ask(proxy, "a sum")
    proxy.upstreams["other"].answers = [broken()]
    ask(proxy, "a sum")
    failed, switched = decisions(proxy)
    assert (switched["model"], switched["warnings"]) == ("other", ["failover"])
    assert (failed["model"], failed["path"], failed["reason"][:3]) == ("", "error", "502")


def test_only_the_latest_are_kept_and_only_where_the_log_may_have_them() -> None:
    proxy = make_proxy()
    for number in range(52):
        ask(proxy, f"sum {number}")
    assert len(decisions(proxy)) == 50
    private = make_proxy("  data_policy: {replay: false}")
    ask(private, "a sum")
    assert decisions(private) == []
