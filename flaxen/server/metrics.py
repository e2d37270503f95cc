"""Prometheus metrics with vLLM's names. Deliberately does not know HTTP or engine internals."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from flaxen.protocol import EngineClient, EngineStats, FinishReason

_LABELS = ("model_name",)
_LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
              60.0, 120.0, 300.0, 600.0)  # fmt: skip
# The metric, what it is, and the field of EngineStats.
_GAUGES = (
    ("num_requests_running", "Running sequences.", "num_running"),
    ("num_requests_waiting", "Waiting sequences.", "num_waiting"),
    (
        "kv_cache_usage_perc",
        "Share of the KV cache that sequences own, from 0 to 1.",
        "kv_cache_usage",
    ),
)
_COUNTERS = (
    ("num_preemptions", "Preempted sequences.", "num_preemptions"),
    (
        "prefix_cache_queries",
        "Prompt tokens looked up in the prefix cache.",
        "num_prefix_queries",
    ),
    ("prefix_cache_hits", "Prompt tokens found in the prefix cache.", "num_prefix_hits"),
    ("prompt_tokens", "Prompt tokens computed or found in the prefix cache.", "num_prompt_tokens"),
    ("generation_tokens", "Tokens generated.", "num_generated_tokens"),
    ("engine_steps", "Steps of the engine.", "num_steps"),
    ("lora_loads", "Adapters copied to the device.", "num_adapter_loads"),
)


class Metrics:
    """One server's metrics: histograms filled by its requests, and the engine's own statistics.

    Every server has its own registry, so that two servers in one process do not share counts.
    """

    def __init__(self, engine: EngineClient, model_name: str) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_EngineCollector(engine, model_name))
        self._first_token = self._histogram(
            "time_to_first_token", "From submission to the first token.", model_name
        )
        self._inter_token = self._histogram(
            "inter_token_latency", "Between one sequence's events.", model_name
        )
        self._queue = self._histogram(
            "request_queue_time", "From submission to the first step.", model_name
        )
        self._end_to_end = self._histogram(
            "e2e_request_latency", "From submission to a sequence's end.", model_name
        )
        finished = Counter(
            "flaxen:request_success",
            "Sequences that ended, by finish reason.",
            (*_LABELS, "finished_reason"),
            registry=self._registry,
        )
        # Every reason exists from the start, because a rate over a series that appears later is
        # wrong.
        self._finished = {
            reason: finished.labels(model_name, reason.wire_name) for reason in FinishReason
        }

    def _histogram(self, name: str, text: str, model_name: str) -> Histogram:
        histogram = Histogram(
            f"flaxen:{name}_seconds", text, _LABELS, buckets=_LATENCIES, registry=self._registry
        )
        return histogram.labels(model_name)

    def first_token(self, seconds: float) -> None:
        """Records the time to a request's first token."""
        self._first_token.observe(seconds)

    def next_token(self, seconds: float) -> None:
        """Records the time between two tokens of a sequence."""
        self._inter_token.observe(seconds)

    def finished(self, reason: FinishReason, seconds: float, queue_s: float | None) -> None:
        """Records the end of a sequence; `queue_s` is None if the engine did not report it."""
        self._finished[reason].inc()
        self._end_to_end.observe(seconds)
        if queue_s is not None:
            self._queue.observe(queue_s)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Returns the metrics in the format that the scraper accepts, and the content type."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type


class _EngineCollector(Collector):
    """Reads the engine's statistics at each scrape, so that nothing is counted twice."""

    def __init__(self, engine: EngineClient, model_name: str) -> None:
        self._engine = engine
        self._label = [model_name]

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        for name, text, field in _GAUGES:
            yield self._family(GaugeMetricFamily, name, text, field, stats)
        for name, text, field in _COUNTERS:
            yield self._family(CounterMetricFamily, name, text, field, stats)
        if stats.max_loras:
            yield self._lora_info(stats)

    def _family(
        self,
        kind: type[GaugeMetricFamily | CounterMetricFamily],
        name: str,
        text: str,
        field: str,
        stats: EngineStats,
    ) -> Metric:
        """One number of the engine; where it has data replicas, that of each, by vLLM's label."""
        labels = (*_LABELS, "engine") if stats.replicas else _LABELS
        family = kind(f"flaxen:{name}", text, labels=labels)
        if not stats.replicas:
            family.add_metric(self._label, getattr(stats, field))
        for index, replica in enumerate(stats.replicas):
            family.add_metric([*self._label, str(index)], getattr(replica, field))
        return family

    def _lora_info(self, stats: EngineStats) -> Metric:
        """vLLM's metric of adapters: the names are labels, and the value is the time."""
        names = ("max_lora", "running_lora_adapters", "waiting_lora_adapters")
        gauge = GaugeMetricFamily(
            "flaxen:lora_requests_info",
            "Names of the adapters of running and waiting sequences.",
            labels=names,
        )
        running, waiting = ",".join(stats.running_adapters), ",".join(stats.waiting_adapters)
        gauge.add_metric([str(stats.max_loras), running, waiting], time.time())
        return gauge
