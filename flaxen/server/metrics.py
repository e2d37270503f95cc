"""Prometheus metrics with vLLM's names. Deliberately does not know HTTP or engine internals."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from flaxen.protocol import EngineStats, FinishReason

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


class HasStats(Protocol):
    """An engine, or what counts for several."""

    def stats(self) -> EngineStats:
        """The statistics now."""


class ServerMetrics:
    """The metrics of one server: those of its process, and the families of those of its models.

    Every server has its own registry, so that two servers in one process do not share counts.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.engines = _EngineCollector()
        self.registry.register(self.engines)
        self.first_token = self._histogram(
            "time_to_first_token", "From submission to the first token."
        )
        self.inter_token = self._histogram("inter_token_latency", "Between one sequence's events.")
        self.queue = self._histogram("request_queue_time", "From submission to the first step.")
        self.end_to_end = self._histogram(
            "e2e_request_latency", "From submission to a sequence's end."
        )
        self.finished = Counter(
            "flaxen:request_success",
            "Sequences that ended, by finish reason.",
            (*_LABELS, "finished_reason"),
            registry=self.registry,
        )

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(
            f"flaxen:{name}_seconds", text, _LABELS, buckets=_LATENCIES, registry=self.registry
        )

    def render(self, accept: str) -> tuple[bytes, str]:
        """Returns the metrics in the format that the scraper accepts, and the content type."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type


class Metrics:
    """One model's metrics: histograms filled by its requests, and its engine's own statistics.

    Args:
      engine: what has the statistics.
      model_name: the label.
      server: the metrics of the server that it is a part of; None makes them for this model alone.
    """

    def __init__(
        self, engine: HasStats, model_name: str, server: ServerMetrics | None = None
    ) -> None:
        self._server = server or ServerMetrics()
        self._server.engines.add(engine, model_name)
        self._first_token = self._server.first_token.labels(model_name)
        self._inter_token = self._server.inter_token.labels(model_name)
        self._queue = self._server.queue.labels(model_name)
        self._end_to_end = self._server.end_to_end.labels(model_name)
        # Every reason exists from the start, because a rate over a series that appears later is
        # wrong.
        self._finished = {
            reason: self._server.finished.labels(model_name, reason.wire_name)
            for reason in FinishReason
        }

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
        """The metrics of the whole server, as ServerMetrics says."""
        return self._server.render(accept)


class _EngineCollector(Collector):
    """Reads the engines' statistics at each scrape, so that nothing is counted twice."""

    def __init__(self) -> None:
        self._engines: list[tuple[str, HasStats]] = []  # with the names of their models

    def add(self, engine: HasStats, model_name: str) -> None:
        """Adds an engine to those that are read."""
        self._engines.append((model_name, engine))

    def collect(self) -> Iterator[Metric]:
        if not self._engines:
            return
        found = [(model_name, engine.stats()) for model_name, engine in self._engines]
        for name, text, field in _GAUGES:
            yield _family(GaugeMetricFamily, name, text, field, found)
        for name, text, field in _COUNTERS:
            yield _family(CounterMetricFamily, name, text, field, found)
        if any(stats.expert_tokens for _, stats in found):
            yield _expert_tokens(found)
        with_adapters = [stats for _, stats in found if stats.max_loras]
        if with_adapters:
            yield _lora_info(with_adapters)


def _family(
    kind: type[GaugeMetricFamily | CounterMetricFamily],
    name: str,
    text: str,
    field: str,
    found: Sequence[tuple[str, EngineStats]],
) -> Metric:
    """One number of each engine; where it has data replicas, that of each, by vLLM's label."""
    has_replicas = any(stats.replicas for _, stats in found)
    labels = (*_LABELS, "engine") if has_replicas else _LABELS
    family = kind(f"flaxen:{name}", text, labels=labels)
    for model_name, stats in found:
        if not has_replicas:
            family.add_metric([model_name], getattr(stats, field))
        for index, replica in enumerate(stats.replicas):
            family.add_metric([model_name, str(index)], getattr(replica, field))
    return family


def _expert_tokens(found: Sequence[tuple[str, EngineStats]]) -> Metric:
    """The tokens of each expert; layers are numbered among those that have experts."""
    family = CounterMetricFamily(
        "flaxen:expert_tokens",
        "Tokens that went through each expert, by layer among those with experts.",
        labels=(*_LABELS, "layer", "expert"),
    )
    for model_name, stats in found:
        for layer, tokens in enumerate(stats.expert_tokens):
            for expert, count in enumerate(tokens):
                family.add_metric([model_name, str(layer), str(expert)], count)
    return family


def _lora_info(found: Sequence[EngineStats]) -> Metric:
    """vLLM's metric of adapters: the names are labels, and the value is the time."""
    names = ("max_lora", "running_lora_adapters", "waiting_lora_adapters")
    gauge = GaugeMetricFamily(
        "flaxen:lora_requests_info",
        "Names of the adapters of running and waiting sequences.",
        labels=names,
    )
    most = max(stats.max_loras for stats in found)
    running = ",".join(name for stats in found for name in stats.running_adapters)
    waiting = ",".join(name for stats in found for name in stats.waiting_adapters)
    gauge.add_metric([str(most), running, waiting], time.time())
    return gauge
