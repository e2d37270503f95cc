"""/metrics: what the engine says, and what the requests took."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flaxen.protocol import STEP_TOKEN_BOUNDS, CacheInfo, EngineStats, StoredPagesStats
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


class _Storing(FakeEngine):
    def stats(self) -> EngineStats:
        stored = StoredPagesStats(
            host_bytes=1, disk_bytes=2, num_host_hits=3, num_disk_hits=4, num_written=5,
            num_dropped=6, num_mismatches=7,
        )  # fmt: skip
        return replace(FakeEngine.stats(self), stored=stored, num_stored_hits=8)


def test_stored_pages_are_counted_where_there_are_some() -> None:
    samples = scrape(make_app(_Storing(), served_model_names=("main",)))
    expected = {
        "host_bytes": 1, "disk_bytes": 2, "host_hits_total": 3, "disk_hits_total": 4,
        "disk_writes_total": 5, "dropped_total": 6, "mismatches_total": 7,
    }  # fmt: skip
    assert {name: value(samples, f"flaxen:kv_offload_{name}") for name in expected} == expected
    assert value(samples, "flaxen:external_prefix_cache_hits_total") == 8
    samples = scrape(make_app(FakeEngine(), served_model_names=("main",)))
    assert not [name for name, _ in samples if "kv_offload" in name]


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


class _Counting(FakeEngine):
    """Waits for adapters' slots, and has counted two steps."""

    def stats(self) -> EngineStats:
        sizes = [0] * (len(STEP_TOKEN_BOUNDS) + 1)
        sizes[1], sizes[-1] = 1, 1
        return replace(
            FakeEngine.stats(self),
            num_deferred=1,
            step_sizes=tuple(sizes),
            sum_step_tokens=20_005,
            cache=CacheInfo(page_size=16, num_tokens=1000, num_whole=2.5, has_prefixes=True),
        )


def test_steps_the_cache_and_why_requests_wait() -> None:
    samples = scrape(make_app(_Counting(), served_model_names=("main",)))
    steps = "flaxen:iteration_tokens_total"
    buckets = [(str(float(bound)), 0 if bound == 1 else 1) for bound in STEP_TOKEN_BOUNDS]
    for bound, count in (*buckets, ("+Inf", 2)):
        assert value(samples, f"{steps}_bucket", le=bound) == count
    assert value(samples, f"{steps}_count") == 2
    assert value(samples, f"{steps}_sum") == 20_005
    waiting = "flaxen:num_requests_waiting_by_reason"
    assert value(samples, waiting, reason="capacity") == 1
    assert value(samples, waiting, reason="deferred") == 1
    sizes = {
        "block_size": "16", "num_gpu_blocks": "8", "kv_cache_size_tokens": "1000",
        "kv_cache_max_concurrency": "2.5", "enable_prefix_caching": "True", "engine": "0",
    }  # fmt: skip
    assert value(samples, "flaxen:cache_config_info", **sizes) == 1


def test_a_request_is_measured() -> None:
    engine = FakeEngine(step_s=0.01)
    app = make_app(engine, served_model_names=("main",))
    body = {"prompt": [[1, 2, 3], [4]], "n": 2, "max_tokens": 5}
    assert post(app, "/v1/completions", body).status_code == 200
    samples = scrape(app)
    sums = {
        "request_prompt_tokens": 8, "request_generation_tokens": 20, "request_params_n": 4,
        "request_params_max_tokens": 20, "request_max_num_generation_tokens": 10,
        "request_num_preemptions": 0,
    }  # fmt: skip
    assert {name: value(samples, f"flaxen:{name}_sum") for name in sums} == sums
    counts = dict.fromkeys(sums, 4) | {
        "request_params_n": 2, "request_max_num_generation_tokens": 2,
        "request_inference_time_seconds": 4, "request_prefill_time_seconds": 4,
        "request_decode_time_seconds": 4,
    }  # fmt: skip
    assert {name: value(samples, f"flaxen:{name}_count") for name in counts} == counts
    # The fake says that each sequence waited for 0.25 s, which is longer than all took.
    assert value(samples, "flaxen:request_inference_time_seconds_sum") == 0
    assert value(samples, "flaxen:request_decode_time_seconds_sum") >= 4 * 4 * 0.01


def test_a_request_that_found_no_room_is_counted() -> None:
    app = make_app(FakeEngine(max_waiting=0), served_model_names=("main",))
    name = "flaxen:admission_rejections_total"
    assert value(scrape(app), name, reason="queue_full") == 0
    assert post(app, "/v1/completions", {"prompt": "a"}).status_code == 429
    assert value(scrape(app), name, reason="queue_full") == 1


# The series that vLLM's own tests ask for, and that its dashboards show.
VLLM = {
    "num_requests_running", "num_requests_waiting", "num_requests_waiting_by_reason",
    "kv_cache_usage_perc", "prefix_cache_queries_total", "prefix_cache_hits_total",
    "num_preemptions_total", "prompt_tokens_total", "generation_tokens_total",
    "cache_config_info", "request_success_total", "admission_rejections_total",
}  # fmt: skip
VLLM_HISTOGRAMS = (
    "iteration_tokens_total", "request_prompt_tokens", "request_generation_tokens",
    "request_params_n", "request_params_max_tokens", "request_max_num_generation_tokens",
    "time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds",
    "request_queue_time_seconds", "request_inference_time_seconds", "request_prefill_time_seconds",
    "request_decode_time_seconds", "request_num_preemptions",
)  # fmt: skip
# As versions 2 and 3 of Prometheus ask.
ACCEPTED = (
    "text/plain",
    "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;q=0.3",
)


@pytest.mark.parametrize("accept", ACCEPTED)
def test_dashboards_of_vllm_find_its_series(accept: str) -> None:
    page = get(make_app(_Counting(), metrics_prefix="vllm"), "/metrics", accept=accept).text
    ends = ("_sum", "_count", "_bucket")
    names = VLLM | {f"{each}{end}" for each in VLLM_HISTOGRAMS for end in ends}
    found = {line.partition("{")[0] for line in page.splitlines()}
    assert {f"vllm:{name}" for name in names} - found == set()
    assert not [name for name in found if name.startswith("flaxen:")]
