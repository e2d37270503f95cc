"""/metrics: what the engine says, and what the requests took."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flaxen.protocol import EngineStats
from tests.server.clients import get, make_app, post
from tests.server.fakes import STOP, FakeEngine

LABEL = {"model_name": "main"}


def scrape(app: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = get(app, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Any, name: str, **labels: str) -> float:
    found: float = samples[name, tuple(sorted((LABEL | labels).items()))]
    return found


def test_engine_numbers_are_read_at_each_scrape() -> None:
    engine = FakeEngine()
    app = make_app(engine, served_model_names=("main",))
    samples = scrape(app)
    expected = {
        "num_requests_running": 0, "num_requests_waiting": 2, "kv_cache_usage_perc": 0.25,
        "num_preemptions_total": 3, "prefix_cache_queries_total": 40,
        "prefix_cache_hits_total": 10, "prompt_tokens_total": 50, "generation_tokens_total": 60,
    }  # fmt: skip
    assert {name: value(samples, f"flaxen:{name}") for name in expected} == expected
    assert samples["process_start_time_seconds", ()] > 1.7e9
    engine.open.add("one")
    assert value(scrape(app), "flaxen:num_requests_running") == 1


class _Replicated(FakeEngine):
    def stats(self) -> EngineStats:
        one = FakeEngine.stats(self)
        return replace(one, replicas=(one, replace(one, num_running=7, num_steps=8)))


def test_each_replicas_numbers_have_its_index() -> None:
    samples = scrape(make_app(_Replicated(), served_model_names=("main",)))
    for index, running, steps in (("0", 0, 70), ("1", 7, 8)):
        assert value(samples, "flaxen:num_requests_running", engine=index) == running
        assert value(samples, "flaxen:engine_steps_total", engine=index) == steps
    assert ("flaxen:engine_steps_total", (("model_name", "main"),)) not in samples


@pytest.mark.parametrize("streamed", [False, True])
def test_a_request_is_timed(streamed: bool) -> None:
    engine = FakeEngine(step_s=0.01)
    app = make_app(engine, served_model_names=("main",))
    body = {"prompt": ["a", "b"], "n": 2, "max_tokens": 5, "stream": streamed}
    assert post(app, "/v1/completions", body).status_code == 200
    samples = scrape(app)
    assert value(samples, "flaxen:time_to_first_token_seconds_count") == 2
    assert value(samples, "flaxen:inter_token_latency_seconds_count") == 2 * 2 * 4
    assert value(samples, "flaxen:e2e_request_latency_seconds_count") == 4
    assert value(samples, "flaxen:e2e_request_latency_seconds_sum") >= 4 * 0.05
    assert value(samples, "flaxen:request_queue_time_seconds_sum") == 4 * 0.25
    finished = {
        reason: value(samples, "flaxen:request_success_total", finished_reason=reason)
        for reason in ("stop", "length", "abort", "error")
    }
    assert finished == {"stop": 0, "length": 4, "abort": 0, "error": 0}


def test_two_servers_count_apart() -> None:
    first = make_app(FakeEngine(ends={0: STOP}), served_model_names=("main",))
    second = make_app(served_model_names=("main",))
    post(first, "/v1/completions", {"prompt": "a"})
    name = "flaxen:request_success_total"
    assert value(scrape(first), name, finished_reason="stop") == 1
    assert value(scrape(second), name, finished_reason="stop") == 0


def test_openmetrics_where_asked_for() -> None:
    answer = get(make_app(), "/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_adapters_are_named_as_vllm_names_them() -> None:
    samples = scrape(make_app(FakeEngine(), served_model_names=("main",)))
    labels = {"max_lora": "4", "running_lora_adapters": "x,y", "waiting_lora_adapters": "z"}
    assert samples["flaxen:lora_requests_info", tuple(sorted(labels.items()))] > 1.7e9
    assert value(samples, "flaxen:lora_loads_total") == 5


class _WithExperts(FakeEngine):
    def stats(self) -> EngineStats:
        return replace(FakeEngine.stats(self), expert_tokens=((3, 0, 1), (2, 2, 0)))


def test_the_load_of_each_expert_has_its_layer_and_number() -> None:
    samples = scrape(make_app(_WithExperts(), served_model_names=("main",)))
    name = "flaxen:expert_tokens_total"
    assert value(samples, name, layer="0", expert="0") == 3
    assert value(samples, name, layer="1", expert="1") == 2
    assert value(samples, name, layer="1", expert="2") == 0
    dense = scrape(make_app(FakeEngine(), served_model_names=("main",)))
    assert not [each for each, _ in dense if each.startswith("flaxen:expert")]
