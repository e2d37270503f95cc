"""A router before the models of its own process."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from flaxen.model_pool.app import create_pool_app
from flaxen.router_config.load import load_config
from flaxen.routing.attaching import attach
from flaxen.routing.compiled import Router
from flaxen.routing.http_client import HttpClient
from flaxen.routing.service import RoutingService
from tests.model_pool.fake_models import Fakes
from tests.server.clients import events, get, http_client, openai_client, post, run
from tests.server.fakes import FakeEngine

FILE = """
version: v0.3
providers: {defaults: {model: a}}
routing:
  signals: {keywords: [{name: sums, operator: OR, keywords: [sum]}]}
  decisions:
    - name: math
      rules: {operator: AND, conditions: [{type: keyword, name: sums}]}
      modelRefs: [{model: b}, {model: a}]
"""


def make(plugins: str = "", file: str = FILE, **more: Any) -> tuple[Fakes, Any]:
    fakes = Fakes(chats=True, **more)
    pool = fakes.pool(fakes.model("a"), fakes.model("b"))
    app = create_pool_app(pool, fakes.config, fakes.metrics, has_adapter_routes=False)
    config = load_config(file + plugins, served=("a", "b"))
    router = Router(config, served=("a", "b"), environment={}, client=HttpClient())
    attach(app, RoutingService(router=router, config=fakes.config))
    return fakes, app


def body(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **more}


def test_the_selected_model_of_this_process_answers() -> None:
    fakes, app = make()
    answer = post(app, "/v1/chat/completions", body("a sum", max_tokens=3))
    assert (answer.json()["model"], answer.headers["x-vsr-selected-model"]) == ("b", "b")
    assert fakes.log == ["+b"]
    answer = post(app, "/v1/chat/completions", body("Hi", max_tokens=3))
    assert (answer.json()["model"], answer.headers["x-vsr-selected-model"]) == ("a", "a")


def test_a_stream_is_the_models_own() -> None:
    _, app = make()
    asked = body("a sum", max_tokens=3, stream=True, seed=1)
    routed = events(post(app, "/v1/chat/completions", asked))
    plain = events(post(app, "/v1/chat/completions", asked | {"model": "b"}))
    volatile = {"id": 0, "created": 0}
    assert [each if each == "[DONE]" else each | volatile for each in routed] == [
        each if each == "[DONE]" else each | volatile for each in plain
    ]


def test_a_concrete_model_and_other_routes_are_untouched() -> None:
    fakes, app = make()
    answer = post(app, "/v1/completions", {"model": "b", "prompt": "sum", "max_tokens": 3})
    assert answer.json()["choices"][0]["text"] == "abc"
    assert not [name for name in answer.headers if name.startswith("x-vsr-")]
    assert post(app, "/tokenize", {"model": "b", "prompt": "sum"}).status_code == 200
    assert post(app, "/v1/completions", {"model": "z", "prompt": "x"}).status_code == 404
    assert post(app, "/v1/completions", b"{").status_code == 400
    assert fakes.log == ["+b"]


def test_both_lists_of_models_and_both_pages_of_metrics_are_there() -> None:
    _, app = make()
    post(app, "/v1/chat/completions", body("a sum", max_tokens=3))
    listed = get(app, "/v1/models").json()["data"]
    assert [each["id"] for each in listed] == ["vllm-sr/auto", "auto", "MoM", "a", "b"]
    for accept in ("text/plain", "application/openmetrics-text; version=1.0.0"):
        page = get(app, "/metrics", accept=accept).text
        assert 'llm_decision_match_total{decision_name="math"} 1.0' in page
        assert 'flaxen:model_loaded{model_name="b"} 1.0' in page
        assert page.count("# EOF") == accept.startswith("application")


def test_an_answer_of_earlier_weights_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = "{type: response_cache, configuration: {mode: exact, scope: global}}"
    _, app = make(f"      plugins: [{kept}]\n")

    def path() -> str:
        answer = post(app, "/v1/chat/completions", body("a sum", max_tokens=3))
        return answer.headers["x-vsr-response-path"]

    assert [path(), path()] == ["upstream", "cache"]
    stats = FakeEngine.stats
    monkeypatch.setattr(FakeEngine, "stats", lambda self: replace(stats(self), weights_version=1))
    assert [path(), path()] == ["upstream", "cache"]


def test_one_name_is_described_by_whoever_has_it() -> None:
    _, app = make()
    described = [get(app, f"/v1/models/{name}").json() for name in ("auto", "b")]
    assert [each["id"] for each in described] == ["auto", "b"]
    assert ["routing" in each for each in described] == [True, False]


def test_a_model_that_can_not_be_loaded_is_replaced_by_the_next() -> None:
    fakes, app = make()
    fakes.faults["b"] = ValueError("no such file")
    answer = post(app, "/v1/chat/completions", body("a sum", max_tokens=3))
    assert answer.json()["model"] == "a"
    assert answer.headers["x-vsr-response-warnings"] == "failover"


def test_a_copy_goes_to_another_model_of_this_process() -> None:
    copied = "{type: shadow_dispatch, configuration: {enabled: true, model: a}}"
    fakes, app = make(f"      plugins: [{copied}]\n")

    async def work() -> None:
        async with http_client(app) as client:
            asked = body("a sum", max_tokens=3, stream=True)
            answer = await client.post("/v1/chat/completions", json=asked)
            assert answer.headers["x-vsr-selected-model"] == "b"
            name = 'llm_shadow_dispatches_total{model="a",outcome="answered"} 1.0'
            while name not in (await client.get("/metrics")).text:
                await asyncio.sleep(0.01)

    run(work())
    assert fakes.log == ["+b", "+a"]


def test_the_official_client_is_answered() -> None:
    async def work() -> None:
        _, app = make()
        async with openai_client(app) as client:
            answer = await client.chat.completions.create(**body("a sum", max_tokens=3))
            assert answer.choices[0].message.content == "abc"

    run(work())


@pytest.mark.parametrize("edit", [("model: b", "model: c"), ("{model: a}}", "{model: d}}")])
def test_a_model_that_is_not_served_is_refused_at_the_start(edit: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=r"there is no model '[cd]'"):
        load_config(FILE.replace(*edit, 1), served=("a", "b"))


def test_a_cascade_over_models_of_this_process() -> None:
    """The fake engine's tokens have -0.5, a confidence of 0.8333."""
    for threshold, names in ((0.83, "b"), (0.84, "b,a")):
        own = "[{model: b}, {model: a}]"
        settings = f"{{escalation_order: declared, threshold: {threshold}}}"
        algorithm = f"\n      algorithm: {{type: confidence, confidence: {settings}}}"
        _, app = make(file=FILE.replace(own, own + algorithm))
        answer = post(app, "/v1/chat/completions", body("a sum", max_tokens=3))
        assert answer.json()["model"] == names[-1]
        assert answer.headers.get("x-vsr-looper-models-used", "b") == names
        streamed = events(
            post(app, "/v1/chat/completions", body("a sum", max_tokens=3, stream=True))
        )
        assert {each["model"] for each in streamed[:-1]} == {names[-1]}
