"""How a chosen model reasons: what its server is asked, for each family and API."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.router_config.load import load_config
from flaxen.router_config.problems import ConfigError
from tests.routing.fakes import FILE, FakeProxy, make_proxy
from tests.routing.test_caching import ANSWER
from tests.server.clients import post

LARGE = '{name: large, backend_refs: [{endpoint: "large:1"}]}'
SUM = {"model": "auto", "messages": [{"role": "user", "content": "the sum of 1 and 2"}]}
PATHS = {
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
}
LEVELS = "parameter: reasoning_effort, levels: [low, high]"


def with_family(reasoning: str, ref: str = "use_reasoning: true") -> str:
    """FILE, whose large model reasons so, as its decision says."""
    own = LARGE.replace("large,", f"large, reasoning: {{{reasoning}}},", 1)
    text = FILE.replace(LARGE, own).replace("[{model: large}", f"[{{model: large, {ref}}}")
    return text.replace("MORE", "")


def make(reasoning: str, ref: str = "use_reasoning: true") -> FakeProxy:
    return make_proxy(edit=lambda text: with_family(reasoning, ref))


def asked(proxy: FakeProxy, api: str = "chat", **more: Any) -> dict[str, Any]:
    """What the model's server gets beside the conversation, for a request with more fields."""
    body = SUM | more
    if api == "responses":
        body = {"model": "auto", "input": "the sum of 1 and 2"} | more
    assert post(proxy.app, PATHS[api], body).status_code == 200
    sent: dict[str, Any] = proxy.upstreams["large"].bodies[-1]
    return {k: v for k, v in sent.items() if k not in ("model", "messages", "input")}


@pytest.mark.parametrize(
    ("reasoning", "ref", "expected"),
    [
        ("family: qwen3", "use_reasoning: true", {"enable_thinking": True}),
        ("family: qwen3", "use_reasoning: false", {"enable_thinking": False}),
        ("family: kimi-k2", "weight: 1", {"thinking": False}),
        ("family: gpt-oss", "use_reasoning: true", {"reasoning_effort": "medium"}),
        (
            "family: gpt-oss",
            "use_reasoning: true, reasoning_effort: high",
            {"reasoning_effort": "high"},
        ),
        (
            "family: glm-5.2",
            "use_reasoning: true",
            {"reasoning_effort": "max", "enable_thinking": True},
        ),
        ("family: glm-5.2", "weight: 1", {"enable_thinking": False}),
        ("family: hunyuan-hy3", "weight: 1", {"reasoning_effort": "no_think"}),
        (
            "type: reasoning_mode, parameter: mode, modes: [disabled, adaptive]",
            "use_reasoning: true, reasoning_mode: adaptive",
            {"mode": "adaptive"},
        ),
        (
            f"type: reasoning_effort, activation_parameter: on, {LEVELS}",
            "use_reasoning: true, reasoning_effort: low",
            {"reasoning_effort": "low", "on": True},
        ),
    ],
)
def test_a_family_has_variables_of_the_template(
    reasoning: str, ref: str, expected: dict[str, Any]
) -> None:
    proxy = make(reasoning, ref)
    given = {"chat_template_kwargs": {"date": "today"}, "reasoning_effort": "low"}
    assert asked(proxy, **given) == {"chat_template_kwargs": {"date": "today"} | expected}


def test_an_effort_may_have_the_apis_own_field() -> None:
    top, on = f"type: top_level_reasoning_effort, {LEVELS}", "use_reasoning: true"
    for family, ref, effort in (
        (top, on, "low"),
        ("family: gpt", on, "medium"),
        ("family: gpt", "weight: 1", "none"),
    ):
        proxy = make(family, ref)
        assert asked(proxy, reasoning_effort="high") == {"reasoning_effort": effort}
        given = {"reasoning": {"effort": "high", "summary": "auto"}}
        expected = {"reasoning": {"effort": effort, "summary": "auto"}}
        assert asked(proxy, "responses", **given) == expected


def test_responses_have_the_same_variables() -> None:
    sent = asked(make("family: qwen3"), "responses", reasoning={"effort": "high"})
    assert sent == {"chat_template_kwargs": {"enable_thinking": True}}


def test_messages_have_fields_of_their_own() -> None:
    budget = {"thinking": {"type": "enabled", "budget_tokens": 2048}}
    on, off = make("family: qwen3"), make("family: qwen3", "weight: 1")
    assert asked(on, "messages") == {"thinking": {"type": "adaptive"}}
    assert asked(on, "messages", **budget) == budget
    assert asked(off, "messages", **budget) == {"thinking": {"type": "disabled"}}
    effort = make("family: gpt-oss", "use_reasoning: true, reasoning_effort: low")
    assert asked(effort, "messages", output_config={"effort": "high", "format": {}}) == {
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "low", "format": {}},
    }


@pytest.mark.parametrize(
    ("reasoning", "ref"),
    [
        ("family: gpt-oss", "weight: 1"),  # it always reasons
        (f"type: reasoning_effort, {LEVELS}", "weight: 1"),
    ],
)
def test_what_can_not_be_told_leaves_the_request(reasoning: str, ref: str) -> None:
    assert asked(make(reasoning, ref), reasoning_effort="low") == {"reasoning_effort": "low"}


def test_without_a_decision_nothing_is_said() -> None:
    text = with_family("family: qwen3").replace("model: small}", "model: large}")
    proxy = make_proxy(edit=lambda _: text)
    body = SUM | {"messages": [{"role": "user", "content": "hello"}], "reasoning_effort": "low"}
    assert post(proxy.app, PATHS["chat"], body).status_code == 200
    assert proxy.upstreams["large"].bodies == [body | {"model": "large"}]


def test_the_next_model_has_its_own_way() -> None:
    proxy = make("family: qwen3")
    proxy.upstreams["large"].answers = [(503, {})]
    debug = {"x-vsr-debug": "true"}
    answer = post(proxy.app, PATHS["chat"], SUM, headers=debug)
    assert answer.headers["x-vsr-selected-model"] == "other"
    assert "x-vsr-selected-reasoning" not in answer.headers
    assert proxy.upstreams["other"].bodies == [SUM | {"model": "org/other-7b"}]
    answer = post(make("family: qwen3").app, PATHS["chat"], SUM, headers=debug)
    assert answer.headers["x-vsr-selected-reasoning"] == "on"


def test_answers_with_and_without_reasoning_are_kept_apart() -> None:
    """One model twice: which of the two is drawn follows from the request's id."""
    refs = "{model: large, use_reasoning: true}, {model: large}"
    cache = "plugins: [{type: response_cache, configuration: {mode: exact, scope: global}}]"
    text = with_family("family: qwen3").replace(
        "[{model: large, use_reasoning: true}, {model: other}]",
        f"[{refs}]\n      algorithm: {{type: weighted}}\n      {cache}",
    )
    proxy = make_proxy(edit=lambda _: text)
    proxy.upstreams["large"].answers = [(200, ANSWER)]
    for index in range(20):
        post(proxy.app, PATHS["chat"], SUM, headers={"x-request-id": f"id-{index}"})
    told = [body["chat_template_kwargs"] for body in proxy.upstreams["large"].bodies]
    assert sorted(told, key=str) == [{"enable_thinking": False}, {"enable_thinking": True}]


@pytest.mark.parametrize(
    ("reasoning", "ref", "message"),
    [
        ("family: gpt-9", "weight: 1", "the family 'gpt-9' is not known here: spell it out with"),
        ("type: reasoning_effort, parameter: x", "weight: 1", "needs levels, such as"),
        ("type: chat_template_kwargs", "weight: 1", "needs the parameter that it sets"),
        (f"type: reasoning_effort, default: max, {LEVELS}", "weight: 1", "'max' is not among lev"),
        (
            "family: gpt-oss",
            "use_reasoning: false",
            "large always reasons: remove use_reasoning, or write true",
        ),
        ("family: gpt-oss", "reasoning_effort: low", "reasoning_effort needs use_reasoning: true"),
        (
            "family: gpt-oss",
            "use_reasoning: true, reasoning_effort: max",
            "large has no reasoning_effort max: it has low, medium, high",
        ),
        ("family: qwen3", "reasoning_mode: enabled", "use_reasoning contradicts reasoning_mode"),
        (
            "family: qwen3",
            "use_reasoning: true, reasoning_mode: adaptive",
            "large has no reasoning_mode adaptive: it has enabled, disabled",
        ),
    ],
)
def test_what_a_model_can_not_do_is_refused(reasoning: str, ref: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(with_family(reasoning, ref))


def test_a_model_that_nothing_is_said_of_can_not_be_asked() -> None:
    text = FILE.replace("MORE", "").replace("{model: large}", "{model: large, use_reasoning: true}")
    with pytest.raises(ConfigError, match="nothing says how large is asked to reason"):
        load_config(text)
