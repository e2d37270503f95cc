"""Prometheus metrics with vLLM's names. Deliberately does not know HTTP or engine internals."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics import exposition as openmetrics

from flaxen.protocol import Finish, FinishReason
from flaxen.server.engine_metrics import LABELS, EngineCollector, HasStats

PREFIX = "flaxen"
_LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
              60.0, 120.0, 300.0, 600.0)  # fmt: skip
_COUNTS = tuple(digit * 10**power for power in range(6) for digit in (1, 2, 5))
_FEW = (0, 1, 2, 5, 10, 20, 50)
# Each histogram: what it is, and its buckets.
_HISTOGRAMS = {
    "time_to_first_token_seconds": ("From submission to the first token.", _LATENCIES),
    "inter_token_latency_seconds": ("Between one sequence's events.", _LATENCIES),
    "request_queue_time_seconds": ("From submission to the first step.", _LATENCIES),
    "request_prefill_time_seconds": ("From the first step to the first token.", _LATENCIES),
    "request_decode_time_seconds": ("From the first token to the end.", _LATENCIES),
    "request_inference_time_seconds": ("From the first step to the end.", _LATENCIES),
    "e2e_request_latency_seconds": ("From submission to a sequence's end.", _LATENCIES),
    "request_prompt_tokens": ("Tokens of a sequence's prompt.", _COUNTS),
    "request_generation_tokens": ("Tokens that were generated for a sequence.", _COUNTS),
    "request_max_num_generation_tokens": ("The most tokens of a request's sequences.", _COUNTS),
    "request_num_preemptions": ("Times that a sequence was preempted.", _FEW),
    "request_params_n": ("n of a request.", _FEW),
    "request_params_max_tokens": ("max_tokens of a sequence.", _COUNTS),
}
_REASONS = ("queue_full",)  # why a request was not admitted


class ServerMetrics:
    """The metrics of one server: those of its process, and the families of those of its models.

    Every server has its own registry, so that two servers in one process do not share counts.

    Args:
      prefix: what the names begin with.
    """

    def __init__(self, prefix: str = PREFIX) -> None:
        self.prefix = prefix
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.engines = EngineCollector(prefix)
        self.registry.register(self.engines)
        self.histograms = {
            name: Histogram(
                f"{prefix}:{name}", text, LABELS, buckets=buckets, registry=self.registry
            )
            for name, (text, buckets) in _HISTOGRAMS.items()
        }
        self.finished = Counter(
            f"{prefix}:request_success",
            "Sequences that ended, by finish reason.",
            (*LABELS, "finished_reason"),
            registry=self.registry,
        )
        self.rejected = Counter(
            f"{prefix}:admission_rejections",
            "Requests that were refused because of the engine's load.",
            (*LABELS, "reason"),
            registry=self.registry,
        )

    def render(self, accept: str) -> tuple[bytes, str]:
        """Returns the metrics in the format that the scraper accepts, and the content type."""
        encoder, content_type = choose_encoder(accept)
        if not content_type.startswith("application/openmetrics-text"):
            return encoder(self.registry), content_type
        # All our names are valid in every version; left to itself the encoder writes _ for the
        # colon of samples, where a scraper names no escaping.
        page: bytes = openmetrics.generate_latest(  # type: ignore[no-untyped-call]
            self.registry, escaping=openmetrics.ALLOWUTF8
        )
        return page, "application/openmetrics-text; version=1.0.0; charset=utf-8"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A sequence that the engine ended, and the seconds of it that the server measured."""

    finish: Finish
    max_tokens: int | None
    total_s: float  # from submission
    first_s: float | None  # from submission to the first token; None: there was none


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
        # Every series exists from the start, because a rate over one that appears later is wrong.
        self._histograms = {
            name: each.labels(model_name) for name, each in self._server.histograms.items()
        }
        self._finished = {
            reason: self._server.finished.labels(model_name, reason.wire_name)
            for reason in FinishReason
        }
        self._rejected = {
            reason: self._server.rejected.labels(model_name, reason) for reason in _REASONS
        }

    def rejected(self, reason: str) -> None:
        """Records a request that the engine had no room for."""
        self._rejected[reason].inc()

    def first_token(self, seconds: float) -> None:
        """Records the time to a request's first token."""
        self._observe("time_to_first_token_seconds", seconds)

    def next_token(self, seconds: float) -> None:
        """Records the time between two tokens of a sequence."""
        self._observe("inter_token_latency_seconds", seconds)

    def finished(self, reason: FinishReason, seconds: float) -> None:
        """Records the end of a sequence."""
        self._finished[reason].inc()
        self._observe("e2e_request_latency_seconds", seconds)

    def ended(self, ended: Ended) -> None:
        """Records what the engine reported of a sequence that it ended."""
        finish = ended.finish
        self._observe("request_queue_time_seconds", finish.queue_s)
        # The clocks of engine and server differ by the time that an event takes to get here.
        self._observe("request_inference_time_seconds", max(0.0, ended.total_s - finish.queue_s))
        if ended.first_s is not None:
            prefill_s = max(0.0, ended.first_s - finish.queue_s)
            self._observe("request_prefill_time_seconds", prefill_s)
            self._observe("request_decode_time_seconds", ended.total_s - ended.first_s)
        self._observe("request_prompt_tokens", finish.num_prompt_tokens)
        self._observe("request_generation_tokens", finish.num_output_tokens)
        self._observe("request_num_preemptions", finish.num_preemptions)
        if ended.max_tokens is not None:
            self._observe("request_params_max_tokens", ended.max_tokens)

    def request_ended(self, n: int, most_tokens: int) -> None:
        """Records a request of which all n sequences ended; `most_tokens` is of the longest."""
        self._observe("request_params_n", n)
        self._observe("request_max_num_generation_tokens", most_tokens)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The metrics of the whole server, as ServerMetrics says."""
        return self._server.render(accept)

    def _observe(self, name: str, value: float) -> None:
        self._histograms[name].observe(value)
