"""Candidate: a model that a decision may choose; and Facts: what is known of models at a moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flaxen.router.reasoning import Reasons
from flaxen.router.selection.neighbours import Examples, Vector
from flaxen.router.signals.settings import CountTokens


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What a million tokens of a model cost, all in one currency.

    Attributes:
      cached, written: of prompt tokens that its cache has, and that it puts there; None: as others.
    """

    prompt: float
    completion: float = 0.0
    cached: float | None = None
    written: float | None = None

    @property
    def of_cached(self) -> float:
        """A million prompt tokens that the cache has."""
        return self.prompt if self.cached is None else self.cached


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model that a decision may choose, as the configuration describes it.

    Attributes:
      name: unique among the candidates of a decision, for explanations.
      model: what answers: a model, or an adapter of one. Facts are kept by it.
      weight: its share of what is divided by weight.
      score: how good it is for the decision by the configuration alone (static).
      size: its parameters in billions; None: not said.
      prices: None: not said.
      quality: its value of each index that it has one of.
      modalities: what it takes (text, image, audio, video); empty: not said.
      capabilities: what else it says that it can, such as tools and structured_output.
      context_window, max_output_tokens: its limits in tokens; None: not said.
      count_tokens: counts by its own tokenizer; None estimates from bytes.
      api: the only API that its server knows; "" for no bound.
      reasons: how it is told to reason; None: it is not.
    """

    name: str
    model: str
    weight: float = 1.0
    score: float = 1.0
    size: float | None = None
    prices: Prices | None = None
    quality: Mapping[str, float] = field(default_factory=dict)
    modalities: frozenset[str] = frozenset()
    capabilities: frozenset[str] = frozenset()
    context_window: int | None = None
    max_output_tokens: int | None = None
    count_tokens: CountTokens | None = None
    api: str = ""
    reasons: Reasons | None = None


@dataclass(frozen=True, kw_only=True)
class Live:
    """The facts of a model while it serves.

    Attributes:
      ttft_ms, tpot_ms: percentiles (1..100) of the time to the first token, and of the time per
        token after it, in milliseconds; one that is not there was not observed. Observations that
        are old should be left out: then the model is tried again.
      in_flight: its requests that are not finished.
      cached_tokens: the tokens of this request's prompt that its cache has; None: not known.
      is_open: whether its circuit is open, because it failed too often.
      denied: why whoever asks may not use it; "" if they may.
    """

    ttft_ms: Mapping[int, float] = field(default_factory=dict)
    tpot_ms: Mapping[int, float] = field(default_factory=dict)
    in_flight: int = 0
    cached_tokens: int | None = None
    is_open: bool = False
    denied: str = ""


_NOTHING = Live()


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a selection reads beside the request and the configuration.

    Attributes:
      live: by the candidates' `model`; one that is not there is idle and was never observed.
      seed: what weights are drawn by: equal seeds give equal choices. A session's id keeps its
        choice, a request's id draws each time.
      query: the embedding of the request, for knn; None if it could not be computed.
      examples: what knn compares it to.
      asked: why earlier answers of a cascade did not do, by the candidate's name.
    """

    live: Mapping[str, Live] = field(default_factory=dict)
    seed: str = ""
    query: Sequence[float] | Vector | None = None
    examples: Examples | None = None
    asked: Mapping[str, str] = field(default_factory=dict)

    def of(self, candidate: Candidate) -> Live:
        """The facts of a candidate's model."""
        return self.live.get(candidate.model, _NOTHING)
