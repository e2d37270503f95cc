"""RouterMetrics: Prometheus metrics of decisions, under the public reference's names where it has
them."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response

from flaxen.routing.replaying import ReplayWriter
from flaxen.routing.service import Outcome, RoutingService
from flaxen.routing.upstream import Call, Upstream

_SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)
_END = b"# EOF\n"  # of OpenMetrics
_COUNTERS = {
    "signal_extraction": ("Signals that were asked for.", "signal_type", "signal_name"),
    "signal_match": ("Signals that matched.", "signal_type", "signal_name"),
    "signal_unknown": ("Signals that were unknown.", "signal_type", "signal_name"),
    "decision_match": ("Decisions that won; none is empty.", "decision_name"),
    "unclassified_requests": ("Requests that were not fully classified.", "reason"),
    "model_selection": ("Models that were selected.", "method", "model", "decision"),
    "model_selection_fallback": ("Selections without their algorithm.", "method", "decision"),
    "model_failures": ("Models that failed a request that another then got.", "model"),
    "model_escalations": ("Answers that were not sure enough.", "model", "decision"),
    "cache_plugin_hits": ("Answers from the cache.", "decision_name"),
    "cache_plugin_misses": ("Requests that were not in the cache.", "decision_name"),
    "shadow_dispatches": ("Copies of requests to other models.", "model", "outcome"),
    "request_errors": ("Requests that the router answered with an error.", "reason"),
}


class RouterMetrics:
    """The metrics of a service's requests, in a registry of their own."""

    def __init__(self, service: RoutingService, replay: ReplayWriter | None) -> None:
        self.registry = CollectorRegistry()
        self._counters = {
            name: Counter(f"llm_{name}", text, labels, registry=self.registry)
            for name, (text, *labels) in _COUNTERS.items()
        }
        self._decide_s, self._added_s = (
            Histogram(f"llm_{name}_seconds", text, buckets=_SECONDS, registry=self.registry)
            for name, text in (
                ("decision_evaluation_latency", "For deciding."),
                ("model_routing_latency", "From a request's arrival until a model is asked."),
            )
        )
        numbers = [
            ("requests_open", "Requests that are answered.", lambda: service.num_running),
            ("requests_waiting", "Requests that wait.", lambda: service.num_waiting),
            ("cache_entries", "Answers that are kept.", lambda: len(service.answers.cache)),
            ("config_is_current", "0 while the file is wrong.", lambda: not service.stale),
        ]
        if replay is not None:
            rows = replay.num_rows
            numbers += [
                (
                    f"replay_rows_{what}",
                    f"Rows of the replay log: {what}.",
                    partial(rows.__getitem__, what),
                )
                for what in rows
            ]
        for name, text, read in numbers:
            Gauge(f"llm_router_{name}", text, registry=self.registry).set_function(read)
        service.listeners.append(self._listen)
        service.shadows.listeners.append(partial(self._count, "shadow_dispatches"))
        service.error_listeners.append(
            lambda error: self._count("request_errors", error.code or "")
        )

    def _listen(self, outcome: Outcome) -> None:
        routed, sent = outcome.routed, outcome.sent
        for key, found in routed.found.items():
            self._count("signal_extraction", *key)
            if found.matched is not False:
                self._count("signal_match" if found.matched else "signal_unknown", *key)
        if routed.error is None:
            self._count("decision_match", routed.name)
        for reason in (reason for reason, is_so in routed.unclassified.items() if is_so):
            self._count("unclassified_requests", reason)
        self._decide_s.observe(routed.decide_s)
        self._added_s.observe(outcome.added_s)
        if outcome.cache:
            which = "cache_plugin_hits" if outcome.cache == "hit" else "cache_plugin_misses"
            self._count(which, routed.name)
        if sent is not None:
            self._count("model_selection", sent.selected.method, sent.selected.model, routed.name)
            if sent.selected.fallback:
                self._count("model_selection_fallback", sent.selected.method, routed.name)
            for model in sent.failed:
                self._count("model_failures", model)
            for name in sent.asked:
                self._count("model_escalations", name, routed.name)

    async def page(self, service: RoutingService, local: Upstream, http: Request) -> Response:
        """Answers GET /metrics: the page of the application behind the router, and these."""
        accept = http.headers.get("accept", "")
        encode, content_type = choose_encoder(accept)
        behind = b""
        if service.router.has_local:
            call = Call(
                path="/metrics", method="GET", headers=(("accept", accept),), scope=http.scope
            )
            behind = (await (await local.send(call)).whole()).removesuffix(_END)
        return Response(behind + encode(self.registry), headers={"content-type": content_type})

    def _count(self, name: str, *labels: str) -> None:
        self._counters[name].labels(*labels).inc()
