"""Conversations that keep their model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from flaxen.router.decisions.tree import SignalKey
from flaxen.router.signals.found import Found
from tests.routing.fakes import (
    FILE,
    FakeProxy,
    FakeUpstream,
    broken,
    make_proxy,
    make_router,
    with_plugins,
)
from tests.server.clients import post

CHATS, RESPONSES = "/v1/chat/completions", "/v1/responses"
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
ASKED = [{"role": "user", "content": "the sum of 1 and 2"}]
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
LOOP = [
    *ASKED,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "3"},
]
PROTECTED = """
global:
  router: {learning: {enabled: true, protection: {enabled: true, scope: SCOPE}}}
"""


def make(more: str = "", beside: str = "") -> FakeProxy:
    """A router whose first request is answered by `other`, because `large` fails it once."""
    own = "    - name: math\n"
    proxy = make_proxy(more, edit=lambda text: text.replace(own, f"{own}      {beside}\n"))
    proxy.upstreams["large"].answers = [broken(), (200, {"text": "ok"})]
    return proxy


def model(proxy: FakeProxy, messages: Any, tools: Any = None, **headers: str) -> str:
    """Which model answers a chat."""
    body = {"model": "auto", "messages": messages} | ({"tools": tools} if tools else {})
    named = {f"x-{name.replace('_', '-')}": value for name, value in headers.items()}
    answer = post(proxy.app, CHATS, body, headers=named)
    assert answer.status_code == 200
    return answer.headers["x-vsr-selected-model"]


def test_a_loop_of_tools_keeps_its_model() -> None:
    proxy = make()
    assert model(proxy, ASKED, TOOLS) == "other"
    assert model(proxy, ASKED, TOOLS) == "large"  # it is no loop
    proxy = make()
    assert model(proxy, ASKED, TOOLS) == "other"
    assert model(proxy, LOOP, TOOLS) == "other"
    again = [*LOOP, *LOOP[1:]]
    assert model(proxy, again, TOOLS) == "other"
    changed = [{"role": "system", "content": "x"}, *LOOP]
    assert model(proxy, changed, TOOLS) == "large"  # nobody knows it


def test_a_loop_is_told_and_ends_where_its_model_fails_or_is_gone() -> None:
    proxy = make()
    model(proxy, ASKED, TOOLS)
    body = {"model": "auto", "messages": LOOP, "tools": TOOLS}
    assert post(proxy.app, CHATS, body).headers["x-vsr-selected-algorithm"] == "session"
    proxy.upstreams["other"].answers = [broken()]
    answer = post(proxy.app, CHATS, body)
    assert answer.headers["x-vsr-selected-model"] == "large"
    assert answer.headers["x-vsr-response-warnings"] == "failover"

    proxy = make()
    assert model(proxy, ASKED, TOOLS) == "other"
    small = [line for line in FILE.splitlines() if "name: other" not in line]
    text = "\n".join(small).replace("MORE", "").replace(", {model: other}", "")
    proxy.service.router = make_router(text, proxy.upstreams)
    assert model(proxy, LOOP, TOOLS) == "large"


def test_a_decision_may_bypass_it() -> None:
    proxy = make(beside="adaptations: {mode: bypass}")
    assert [model(proxy, ASKED, TOOLS), model(proxy, LOOP, TOOLS)] == ["other", "large"]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_response_is_continued_by_the_model_that_has_it(streamed: bool) -> None:
    response = {"id": "resp_1", "object": "response", "status": "completed"}
    proxy = make_proxy()
    whole: Any = (200, response)
    if streamed:
        events = [
            {"type": "response.created", "response": response},
            {"type": "response.completed", "response": response},
        ]
        text = "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events).encode()
        whole = [text[:20], text[20:]]
    proxy.upstreams["large"].answers = [whole]
    answer = post(proxy.app, RESPONSES, {"model": "auto", "input": "a sum", "stream": streamed})
    assert answer.headers["x-vsr-selected-model"] == "large"
    body = {"model": "auto", "input": "Thanks", "previous_response_id": "resp_1"}
    answer = post(proxy.app, RESPONSES, body)
    assert answer.headers["x-vsr-selected-model"] == "large"
    assert answer.headers["x-vsr-selected-algorithm"] == "session"
    answer = post(proxy.app, RESPONSES, body | {"previous_response_id": "resp_2"})
    assert answer.headers["x-vsr-selected-model"] == "small"
    proxy.upstreams["large"].answers = [broken()]
    answer = post(proxy.app, RESPONSES, body)  # nobody else has it
    assert answer.status_code == 502
    assert "small" not in answer.text


@pytest.mark.parametrize(
    ("scope", "header"), [("session", "session_id"), ("conversation", "conversation_id")]
)
def test_a_named_conversation_keeps_its_model(scope: str, header: str) -> None:
    proxy = make(PROTECTED.replace("SCOPE", scope))
    other = [{"role": "user", "content": "another sum"}]
    assert model(proxy, ASKED, **{header: "1"}) == "other"
    # Scores of the configuration are equal, so that a switch is not worth its price.
    assert model(proxy, other, **{header: "1"}) == "other"
    assert model(proxy, other, **{header: "2"}) == "large"
    assert model(proxy, other, authz_user_id="a", **{header: "1"}) == "large"
    assert model(proxy, other) == "large"


def test_a_model_that_refused_is_not_kept() -> None:
    proxy = make(PROTECTED.replace("SCOPE", "session"))
    proxy.upstreams["other"].answers = [(400, {"error": {"message": "no"}})]
    body, named = {"model": "auto", "messages": ASKED}, {"x-session-id": "1"}
    assert post(proxy.app, CHATS, body, headers=named).status_code == 400
    assert model(proxy, ASKED, session_id="1") == "large"


def test_a_count_of_tokens_is_no_turn() -> None:
    proxy = make(PROTECTED.replace("SCOPE", "session"))
    body, named = {"model": "auto", "messages": ASKED}, {"x-session-id": "1"}
    answer = post(proxy.app, "/v1/messages/count_tokens", body, headers=named)
    assert answer.headers["x-vsr-selected-model"] == "other"
    assert model(proxy, ASKED, session_id="1") == "large"


def test_without_protection_a_named_conversation_may_change_its_model() -> None:
    proxy = make()
    assert model(proxy, ASKED, session_id="1") == "other"
    assert model(proxy, ASKED, session_id="1") == "large"


def test_a_decision_keeps_the_current_model() -> None:
    proxy = make(beside="emits: [{kind: retention, retention: {keep_current_model: true}}]")
    assert model(proxy, ASKED, session_id="1") == "other"
    assert model(proxy, ASKED, session_id="1") == "other"


class Attack:
    """A model for signals that finds an attack in all that has a tool's result."""

    async def find(self, request: Any, wanted: Any) -> Mapping[SignalKey, Found]:
        matched = any(message.role == "tool" for message in request.messages)
        return {SignalKey(*key): Found(matched=matched) for key in wanted}


def test_a_reroute_comes_before_a_session() -> None:
    rule = "signals:\n    jailbreak: [{name: any, threshold: 0.5}]"
    plugin = "{type: jailbreak, configuration: {rule: any, action: reroute, model: small}}"
    edit = with_plugins(plugin)
    proxy = make_proxy(edit=lambda text: edit(text.replace("signals:", rule, 1)), learned=Attack())
    assert [model(proxy, ASKED, TOOLS), model(proxy, LOOP, TOOLS)] == ["large", "small"]


def test_the_number_of_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flaxen.routing.sessions._MOST", 2)
    proxy = make(PROTECTED.replace("SCOPE", "session"))
    for name in "123":
        model(proxy, ASKED, session_id=name)
    assert len(proxy.service.sessions) == 2
    assert model(proxy, ASKED, session_id="1") == "large"  # the first was forgotten


def test_an_answer_without_an_id_is_passed_as_it_is() -> None:
    proxy = make_proxy()
    proxy.upstreams["large"] = FakeUpstream(answers=[[b"data: [1]\n\n", b"data: [DONE]\n\n"]])
    proxy.service.router = make_router(FILE.replace("MORE", ""), proxy.upstreams)
    answer = post(proxy.app, RESPONSES, {"model": "auto", "input": "a sum", "stream": True})
    assert answer.content == b"data: [1]\n\ndata: [DONE]\n\n"
