"""How a decision chooses among its models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flaxen.router.checks import Limited, check_between, first_twice, limited

# The last is this router's own: the tokens of the prompt that a model's cache has.
FACTORS = ("quality", "latency", "cost", "load", "cached_prefix")
# Algorithms whose settings stand in a block of their name.
_BLOCKS = ("confidence", "latency_aware", "multi_factor", "fusion", "workflows")
_WITHOUT_BLOCK = ("static", "weighted", "knn")
# Read, so that files that have them load; a decision with one can't be served.
SEVERAL_MODELS = ("fusion", "workflows")
REFUSED = {
    "automix": "it scores models by constants of its own; use confidence or multi_factor",
    "hybrid": "it blends other algorithms; use multi_factor with weights",
    "kmeans": "it needs files of another library's training; use knn",
    "mlp": "it needs files of another library's training; use knn",
    "svm": "it needs files of another library's training; use knn",
    "router_dc": "it needs embeddings of descriptions of models; use knn",
    "prompt": "it asks a model to choose a model; use a classifier of your own in the rules",
    "ratings": "it calls several models for one request; use multi_factor",
    "remom": "it calls several models for one request; use multi_factor",
    "elo": "it learns while it serves; use multi_factor",
    "rl_driven": "it learns while it serves; use multi_factor",
    "gmtrouter": "it learns while it serves; use multi_factor",
    "bandit": "it learns while it serves; use multi_factor",
    "personalization": "it learns while it serves; use multi_factor",
    "session_aware": "sessions stick by global.router.learning.protection",
}


@dataclass(frozen=True, kw_only=True)
class HybridWeights:
    """The weights of the two measures of confidence_method hybrid, which add up to 1."""

    logprob_weight: float = 0.5
    margin_weight: float = 0.5

    def __post_init__(self) -> None:
        if abs(self.logprob_weight + self.margin_weight - 1) > 1e-9:
            raise ValueError("logprob_weight and margin_weight must add up to 1")


@dataclass(frozen=True, kw_only=True)
class Confidence(Limited):
    """A cascade: the first model whose answer is sure enough, from the smallest on."""

    confidence_method: Literal["avg_logprob", "margin", "hybrid"] = "avg_logprob"
    threshold: float | None = limited(None, 0, 1)
    hybrid_weights: HybridWeights = HybridWeights()
    on_error: Literal["skip", "fail"] = "skip"
    escalation_order: Literal["size", "small_to_large", "declared", "cost"] = "size"
    max_response_bytes: int | None = limited(None, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold is None and self.confidence_method == "avg_logprob":
            raise ValueError(
                "confidence_method avg_logprob needs a threshold from 0 to 1: without one every "
                "first answer is accepted, and no other model is ever asked"
            )


@dataclass(frozen=True, kw_only=True)
class LatencyAware(Limited):
    """The model with the least latency, at percentiles of what was observed."""

    tpot_percentile: int | None = limited(None, 1, 100)
    ttft_percentile: int | None = limited(None, 1, 100)
    description: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tpot_percentile is None and self.ttft_percentile is None:
            raise ValueError("give tpot_percentile or ttft_percentile: neither orders no models")


@dataclass(frozen=True, kw_only=True)
class Priority(Limited):
    """A factor of a lexicographic objective; models within the tolerance of the best are equal."""

    factor: Literal["quality", "latency", "cost", "load", "cached_prefix"]
    tolerance: float = limited(0.0, 0, 1)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """How factors are combined: by weights, or one after the other."""

    strategy: Literal["weighted", "lexicographic"] = "weighted"
    priorities: tuple[Priority, ...] = ()

    def __post_init__(self) -> None:
        if (self.strategy == "lexicographic") != bool(self.priorities):
            raise ValueError("priorities belong to strategy lexicographic, which needs them")
        twice = first_twice(priority.factor for priority in self.priorities)
        if twice:
            raise ValueError(f"priorities names {twice} twice: remove one")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of factors."""

    quality: float = 0.0
    latency: float = 0.0
    cost: float = 0.0
    load: float = 0.0
    cached_prefix: float = 0.0

    def __post_init__(self) -> None:
        for name in FACTORS:
            check_between(name, getattr(self, name), 0)
        if not any(getattr(self, name) for name in FACTORS):
            raise ValueError("all weights are 0, so that no model is better than another")


@dataclass(frozen=True, kw_only=True)
class Limits(Limited):
    """What a candidate must not exceed (`slo`)."""

    max_tpot_ms: float | None = limited(None, 0)
    max_ttft_ms: float | None = limited(None, 0)
    max_cost_per_1m: float | None = limited(None, 0)
    max_inflight: int | None = limited(None, 0)


@dataclass(frozen=True, kw_only=True)
class Quality(Limited):
    """The index that quality is read from, and what happens to a model without it."""

    index: str
    on_missing: Literal["exclude", "disable_quality"] = "exclude"
    min_coverage: float | None = limited(None, 0, 1)
    min_score: float | None = None


@dataclass(frozen=True, kw_only=True)
class MultiFactor(Limited):
    """The best model by quality, latency, cost and load."""

    objective: Objective = Objective()
    weights: Weights | None = None
    slo: Limits = Limits()
    quality: Quality | None = None
    expected_output_tokens: int | None = limited(None, 1)
    latency_percentile: int = limited(95, 1, 100)
    latency_metric: Literal["", "ttft", "tpot"] = ""
    on_no_candidates: Literal["cheapest", "first", "fail"] = "cheapest"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is not None and self.objective.strategy == "lexicographic":
            raise ValueError("weights belong to the objective weighted, and this is lexicographic")


@dataclass(frozen=True, kw_only=True)
class Algorithm(Limited):
    """How a decision chooses among its models, by type, with the block of that name.

    Attributes:
      on_error: what happens where the algorithm can't compare the models: the request fails (fail),
        or the first model answers, and the reason says so (skip, fallback, or nothing).
    """

    type: str = "static"
    minimum_candidates: int = limited(1, 1)
    on_error: Literal["", "skip", "fallback", "fail"] = ""
    confidence: Confidence | None = None
    latency_aware: LatencyAware | None = None
    multi_factor: MultiFactor | None = None
    fusion: Mapping[str, Any] = field(default_factory=dict)
    workflows: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.type in REFUSED:
            raise ValueError(f"the algorithm {self.type} is not supported: {REFUSED[self.type]}")
        known = (*_WITHOUT_BLOCK, *_BLOCKS)
        if self.type not in known:
            raise ValueError(f"type must be one of {', '.join(known)}, got {self.type!r}")
        other = [name for name in _BLOCKS if getattr(self, name) and name != self.type]
        if other:
            raise ValueError(
                f"the block {other[0]} is for type {other[0]}, and this is {self.type}: remove it"
            )
        for name in ("latency_aware", "confidence"):
            if self.type == name and getattr(self, name) is None:
                raise ValueError(f"type {name} needs the block {name}")
