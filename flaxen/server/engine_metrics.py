"""The statistics of engines as Prometheus metrics, read at each scrape, so that nothing is counted
twice. Deliberately does not know requests.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Protocol

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from flaxen.protocol import STEP_TOKEN_BOUNDS, EngineStats

LABELS = ("model_name",)
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
    (
        "external_prefix_cache_hits",
        "Prompt tokens whose pages came from the host's memory or disk.",
        "num_stored_hits",
    ),
    ("prompt_tokens", "Prompt tokens computed or found in the prefix cache.", "num_prompt_tokens"),
    ("generation_tokens", "Tokens generated.", "num_generated_tokens"),
    ("engine_steps", "Steps of the engine.", "num_steps"),
    ("lora_loads", "Adapters copied to the device.", "num_adapter_loads"),
    ("spec_decode_num_drafts", "Drafts that were verified, of one or more tokens.", "num_drafts"),
    ("spec_decode_num_draft_tokens", "Draft tokens that were verified.", "num_draft_tokens"),
    ("spec_decode_num_accepted_tokens", "Of these the accepted ones.", "num_accepted_tokens"),
)
# The same of StoredPagesStats, if pages are stored outside of the KV cache.
_STORED: tuple[tuple[type[GaugeMetricFamily | CounterMetricFamily], str, str, str], ...] = (
    (GaugeMetricFamily, "host_bytes", "Bytes of pages in the host's memory.", "host_bytes"),
    (GaugeMetricFamily, "disk_bytes", "Bytes of pages on disk.", "disk_bytes"),
    (CounterMetricFamily, "host_hits", "Pages found in the host's memory.", "num_host_hits"),
    (CounterMetricFamily, "disk_hits", "Pages read from disk and verified.", "num_disk_hits"),
    (CounterMetricFamily, "disk_writes", "Pages written to disk.", "num_written"),
    (CounterMetricFamily, "dropped", "Pages that could not be stored.", "num_dropped"),
    (CounterMetricFamily, "mismatches", "Pages on disk not as written.", "num_mismatches"),
)
Found = Sequence[tuple[str, EngineStats]]  # models' names, and the statistics of their engines


class HasStats(Protocol):
    """An engine, or what counts for several."""

    def stats(self) -> EngineStats:
        """The statistics now."""


class EngineCollector(Collector):
    """Reads the engines' statistics.

    Args:
      prefix: what the metrics' names begin with.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._engines: list[tuple[str, HasStats]] = []  # with the names of their models

    def add(self, engine: HasStats, model_name: str) -> None:
        """Adds an engine to those that are read."""
        self._engines.append((model_name, engine))

    def collect(self) -> Iterator[Metric]:
        if not self._engines:
            return
        prefix = self._prefix
        found = [(model_name, engine.stats()) for model_name, engine in self._engines]
        for name, text, field in _GAUGES:
            yield _family(GaugeMetricFamily, f"{prefix}:{name}", text, field, found)
        for name, text, field in _COUNTERS:
            yield _family(CounterMetricFamily, f"{prefix}:{name}", text, field, found)
        if any(stats.stored is not None for _, stats in found):
            yield from _stored(prefix, found)
        yield _waiting_by_reason(prefix, found)
        yield _step_tokens(prefix, found)
        if any(stats.cache is not None for _, stats in found):
            yield _cache_info(prefix, found)
        if any(stats.accepted_per_pos for _, stats in found):
            yield _accepted_per_pos(prefix, found)
        if any(stats.expert_tokens for _, stats in found):
            yield _expert_tokens(prefix, found)
        with_adapters = [stats for _, stats in found if stats.max_loras]
        if with_adapters:
            yield _lora_info(prefix, with_adapters)


def _family(
    kind: type[GaugeMetricFamily | CounterMetricFamily],
    name: str,
    text: str,
    field: str,
    found: Found,
) -> Metric:
    """One number of each engine; where it has data replicas, that of each, by vLLM's label."""
    has_replicas = any(stats.replicas for _, stats in found)
    labels = (*LABELS, "engine") if has_replicas else LABELS
    family = kind(name, text, labels=labels)
    for model_name, stats in found:
        if not has_replicas:
            family.add_metric([model_name], getattr(stats, field))
        for index, replica in enumerate(stats.replicas):
            family.add_metric([model_name, str(index)], getattr(replica, field))
    return family


def _stored(prefix: str, found: Found) -> Iterator[Metric]:
    """The numbers of each engine's stored pages, which its data replicas share."""
    for kind, name, text, field in _STORED:
        family = kind(f"{prefix}:kv_offload_{name}", text, labels=LABELS)
        for model_name, stats in found:
            if stats.stored is not None:
                family.add_metric([model_name], getattr(stats.stored, field))
        yield family


def _waiting_by_reason(prefix: str, found: Found) -> Metric:
    family = GaugeMetricFamily(
        f"{prefix}:num_requests_waiting_by_reason",
        "Waiting sequences: for room (capacity), or for a slot of their adapter (deferred).",
        labels=(*LABELS, "reason"),
    )
    for model_name, stats in found:
        family.add_metric([model_name, "capacity"], stats.num_waiting - stats.num_deferred)
        family.add_metric([model_name, "deferred"], stats.num_deferred)
    return family


def _step_tokens(prefix: str, found: Found) -> Metric:
    family = HistogramMetricFamily(
        f"{prefix}:iteration_tokens_total",
        "Prompt tokens and generated tokens of each step.",
        labels=LABELS,
    )
    bounds = [*(str(float(bound)) for bound in STEP_TOKEN_BOUNDS), "+Inf"]
    for model_name, stats in found:
        counts = stats.step_sizes or (0,) * len(bounds)
        buckets = list(zip(bounds, accumulate(counts), strict=True))
        family.add_metric([model_name], buckets, stats.sum_step_tokens)
    return family


def _cache_info(prefix: str, found: Found) -> Metric:
    """The sizes of the KV cache, as labels of a 1, with vLLM's names."""
    labels = (
        "block_size",
        "num_gpu_blocks",
        "enable_prefix_caching",
        "kv_cache_size_tokens",
        "kv_cache_max_concurrency",
    )
    family = GaugeMetricFamily(
        f"{prefix}:cache_config_info",
        "The pages of the KV cache, their tokens, and how many sequences of full length fit.",
        labels=(*LABELS, "engine", *labels),
    )
    for model_name, stats in found:
        for index, each in enumerate(stats.replicas or (stats,)):
            if each.cache is None:
                continue
            sizes = (
                each.cache.page_size,
                each.num_pages,
                each.cache.has_prefixes,
                each.cache.num_tokens,
                round(each.cache.num_whole, 2),
            )
            family.add_metric([model_name, str(index), *map(str, sizes)], 1)
    return family


def _accepted_per_pos(prefix: str, found: Found) -> Metric:
    family = CounterMetricFamily(
        f"{prefix}:spec_decode_num_accepted_tokens_per_pos",
        "Accepted draft tokens by their place in their draft, from 0.",
        labels=(*LABELS, "position"),
    )
    for model_name, stats in found:
        for place, count in enumerate(stats.accepted_per_pos):
            family.add_metric([model_name, str(place)], count)
    return family


def _expert_tokens(prefix: str, found: Found) -> Metric:
    """The tokens of each expert; layers are numbered among those that have experts."""
    family = CounterMetricFamily(
        f"{prefix}:expert_tokens",
        "Tokens that went through each expert, by layer among those with experts.",
        labels=(*LABELS, "layer", "expert"),
    )
    for model_name, stats in found:
        for layer, tokens in enumerate(stats.expert_tokens):
            for expert, count in enumerate(tokens):
                family.add_metric([model_name, str(layer), str(expert)], count)
    return family


def _lora_info(prefix: str, found: Sequence[EngineStats]) -> Metric:
    """vLLM's metric of adapters: the names are labels, and the value is the time."""
    names = ("max_lora", "running_lora_adapters", "waiting_lora_adapters")
    gauge = GaugeMetricFamily(
        f"{prefix}:lora_requests_info",
        "Names of the adapters of running and waiting sequences.",
        labels=names,
    )
    most = max(stats.max_loras for stats in found)
    running = ",".join(name for stats in found for name in stats.running_adapters)
    waiting = ",".join(name for stats in found for name in stats.waiting_adapters)
    gauge.add_metric([str(most), running, waiting], time.time())
    return gauge
