"""The confidence cascade: in which order models are asked, and whose answer is sure enough.

Whoever calls the models asks the first, computes how sure its answer is, and judges it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from flaxen.router.selection.algorithms import Confidence
from flaxen.router.selection.candidate import Candidate
from flaxen.router.selection.ranking import Ranking

_LEAST_LOGPROB = -3.0  # an average from here on counts as no confidence
_MARGIN_SCALE = 3.0
_DEFAULT_THRESHOLD = 0.5  # of margin and hybrid, as in the reference
_SIZE = re.compile(r"(?:(\d+)\s*x\s*)?(\d+(?:\.\d+)?)\s*([KMBT]?)", re.IGNORECASE)
_BILLIONS = {"": 1.0, "K": 1e-6, "M": 1e-3, "B": 1.0, "T": 1e3}


def read_size(text: str) -> float | None:
    """The parameters in billions that a text such as 7B, 0.5b, 360M or 8x7B says; None if none."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    return int(found[1] or 1) * float(found[2]) * _BILLIONS[found[3].upper()]


def by_escalation(pool: Sequence[Candidate], settings: Confidence) -> Ranking:
    """The order in which models are asked: as declared, or the smallest or the cheapest first, then
    those of which that is not known. Equals stay as declared."""

    def key(candidate: Candidate) -> float:
        if settings.escalation_order == "declared":
            return 0.0
        if settings.escalation_order == "cost":
            return candidate.prices.prompt if candidate.prices else math.inf
        return math.inf if candidate.size is None else candidate.size

    order = tuple(sorted(pool, key=key))
    reason = f"the first of a cascade by {settings.escalation_order}"
    return Ranking(order=order, scores={}, reason=reason, compares=False)


@dataclass(frozen=True)
class TokenLogprobs:
    """A token of an answer: its log-probability, and that of the runner-up; None: not sent."""

    chosen: float
    second: float | None = None


def confidence_of(tokens: Sequence[TokenLogprobs], settings: Confidence) -> float | None:
    """How sure an answer is, from 0 to 1, as the public reference computes it; None if its
    log-probabilities do not say it."""
    gaps = [token.chosen - token.second for token in tokens if token.second is not None]
    average = margin = None
    if tokens:
        mean = math.fsum(token.chosen for token in tokens) / len(tokens)
        average = min(max(1 - mean / _LEAST_LOGPROB, 0.0), 1.0)
    if gaps:
        margin = 1 - math.exp(-max(math.fsum(gaps) / len(gaps), 0.0) / _MARGIN_SCALE)
    if settings.confidence_method == "avg_logprob":
        return average
    if settings.confidence_method == "margin":
        return margin
    if average is None or margin is None:
        return None
    weights = settings.hybrid_weights
    return weights.logprob_weight * average + weights.margin_weight * margin


@dataclass(frozen=True)
class Verdict:
    """What becomes of an answer: it is accepted, the cascade goes on, or the request fails."""

    is_accepted: bool
    fails: bool
    reason: str


def judge(confidence: float | None, settings: Confidence) -> Verdict:
    """Judges an answer by its confidence. One that is not accepted counts if no model is left.

    Args:
      confidence: None if it is not known, or the model gave no answer: by on_error the request
        fails, or the cascade goes on.
    """
    if confidence is None and settings.on_error == "fail":
        return Verdict(False, True, "its confidence is not known, and on_error is fail")
    known = "not known" if confidence is None else f"{confidence:.4f}"
    threshold = settings.threshold
    if threshold is None:
        threshold = _DEFAULT_THRESHOLD
    if confidence is not None and confidence >= threshold:
        return Verdict(True, False, f"its confidence {known} reaches {threshold:g}")
    return Verdict(False, False, f"its confidence is {known}, and must be {threshold:g}")
