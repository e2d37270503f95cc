"""The metrics of a pool of models. Deliberately does not know the models' own."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flaxen.model_pool.pool import ModelPool

_LABELS = ("model_name",)


class PoolCollector(Collector):
    """Reads the pool's state at each scrape.

    Args:
      pool: the models.
      prefix: what the metrics' names begin with.
    """

    def __init__(self, pool: ModelPool, prefix: str) -> None:
        self._pool, self._prefix = pool, prefix

    def collect(self) -> Iterator[Metric]:
        prefix = self._prefix
        loaded = GaugeMetricFamily(
            f"{prefix}:model_loaded", "Whether the model is in memory.", labels=_LABELS
        )
        waiting = GaugeMetricFamily(
            f"{prefix}:model_requests_waiting",
            "Requests that wait for the model to be loaded.",
            labels=_LABELS,
        )
        loads = CounterMetricFamily(
            f"{prefix}:model_loads", "Times the model was loaded.", labels=_LABELS
        )
        failed = CounterMetricFamily(
            f"{prefix}:model_load_failures", "Times a load of the model failed.", labels=_LABELS
        )
        for slot in self._pool.slots:
            name = [slot.model.name]
            loaded.add_metric(name, slot.loaded is not None)
            waiting.add_metric(name, len(slot.waiters))
            loads.add_metric(name, slot.num_loads)
            failed.add_metric(name, slot.num_failed_loads)
        yield from (loaded, waiting, loads, failed)
        used = "Bytes of weights, KV caches and stored pages of the models in memory."
        yield GaugeMetricFamily(f"{prefix}:models_memory_bytes", used, self._pool.used_bytes)
        most = "Bytes that the models in memory may take together."
        yield GaugeMetricFamily(
            f"{prefix}:models_memory_limit_bytes", most, self._pool.budget_bytes
        )
