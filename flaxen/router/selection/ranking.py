"""Rankings of a pool by one thing: the configuration's score, weights, latency, or neighbours.

Of equals, the first in the configuration comes first, unless a ranking says otherwise.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flaxen.router.selection.algorithms import LatencyAware
from flaxen.router.selection.candidate import Candidate, Facts
from flaxen.router.selection.neighbours import votes
from flaxen.router.selection.selected import Excluded, UnrankedError

_LEAST_MS = 1e-3  # less is not told apart, so that nothing is divided by zero


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Candidates in the order in which they should answer, and why.

    Attributes:
      scores: by name, the greater the better.
      excluded: what the algorithm itself took out of the pool.
      compares: whether scores say how much better one candidate is than another, from 0 to 1.
      fallback: why this is the configuration's fallback; "" if it is the algorithm's own.
    """

    order: tuple[Candidate, ...]
    scores: Mapping[str, float]
    reason: str
    excluded: tuple[Excluded, ...] = ()
    compares: bool = True
    fallback: str = ""


def in_order(
    pool: Sequence[Candidate],
    scores: Mapping[str, float],
    tie: Callable[[Candidate], tuple[float, ...]] = lambda candidate: (),
) -> tuple[Candidate, ...]:
    """A pool by falling score; equals by rising tie, then as they stand."""
    return tuple(sorted(pool, key=lambda each: (-scores[each.name], *tie(each))))


def by_score(pool: Sequence[Candidate]) -> Ranking:
    """The ranking `static`: the greatest score that the configuration gives.

    Scores may be of any size; they are given as shares of the greatest.
    """
    greatest = max(each.score for each in pool)
    scores = {each.name: each.score / greatest if greatest > 0 else 1.0 for each in pool}
    equal = sum(score == 1 for score in scores.values())
    first = f"the first of {equal} with it" if equal > 1 else "the only one with it"
    return Ranking(
        order=in_order(pool, scores),
        scores=scores,
        reason=f"the greatest score, {greatest:g}; {first}",
    )


def by_weight(pool: Sequence[Candidate], seed: str) -> Ranking:
    """The ranking `weighted`: drawn by weight, without putting back.

    Each candidate draws by the seed and its own name, so that neither their order nor who else is
    there changes a draw: where one fails, its requests spread over the others by their weights, and
    no other request moves.

    Raises:
      UnrankedError: all weights are 0.
    """
    drawn = [each for each in pool if each.weight > 0]
    if not drawn:
        raise UnrankedError("all candidates have weight 0")
    # An exponential race: the first of times with rates w is each with the chance w / sum(w).
    times = {each.name: -math.log(_uniform(seed, each.name)) / each.weight for each in drawn}
    whole = sum(each.weight for each in drawn)
    return Ranking(
        order=tuple(sorted(drawn, key=lambda each: times[each.name])),
        scores={each.name: each.weight / whole for each in drawn},
        reason="drawn by weight",
        excluded=tuple(
            Excluded(each.name, "weight", "its weight is 0") for each in pool if not each.weight
        ),
        compares=False,
    )


def _uniform(seed: str, name: str) -> float:
    """A number between 0 and 1, neither of them, that the two texts decide."""
    digest = hashlib.blake2b(name.encode(), key=_key(seed), digest_size=8).digest()
    return (int.from_bytes(digest, "big") + 0.5) / 2**64


def _key(seed: str) -> bytes:
    return hashlib.blake2b(seed.encode("utf-8", "surrogatepass"), digest_size=32).digest()


def by_latency(pool: Sequence[Candidate], settings: LatencyAware, facts: Facts) -> Ranking:
    """The ranking `latency_aware`: the least mean of the ratios to the best of the pool, of the
    percentiles that are configured. Scores are the best ratio's share.

    What was not observed counts as the best, until it is: a model that nobody asks would never be
    observed. Of equals, the one with fewer requests in flight comes first, then one that was not
    observed.
    """
    ratios: dict[str, list[float]] = {each.name: [] for each in pool}
    metrics = [("ttft", settings.ttft_percentile), ("tpot", settings.tpot_percentile)]
    percentiles = [(metric, each) for metric, each in metrics if each is not None]
    is_new: set[str] = set()
    for metric, percentile in percentiles:
        observed = {each.name: latency(facts, each, metric, percentile) for each in pool}
        best = max(min((ms for ms in observed.values() if ms is not None), default=0), _LEAST_MS)
        is_new |= {name for name, ms in observed.items() if ms is None}
        for name, ms in observed.items():
            ratios[name].append(1.0 if ms is None else max(ms, _LEAST_MS) / best)
    scores = {name: len(values) / sum(values) for name, values in ratios.items()}
    order = in_order(pool, scores, lambda each: (facts.of(each).in_flight, each.name not in is_new))
    names = " and ".join(f"{metric} p{each}" for metric, each in percentiles)
    first = "not observed yet, so that it is tried" if order[0].name in is_new else "the least"
    return Ranking(order=order, scores=scores, reason=f"{names}: {first}")


def latency(facts: Facts, candidate: Candidate, metric: str, percentile: int) -> float | None:
    """A percentile of ttft or tpot in milliseconds; None if it was not observed."""
    live = facts.of(candidate)
    return (live.ttft_ms if metric == "ttft" else live.tpot_ms).get(percentile)


def by_neighbours(pool: Sequence[Candidate], facts: Facts) -> Ranking:
    """The ranking `knn`: what answered the most similar requests best.

    Raises:
      UnrankedError: there is no embedding, or no example that is alike.
    """
    if facts.query is None:
        raise UnrankedError("the request has no embedding")
    if facts.examples is None:
        raise UnrankedError("there are no examples to compare the request to")
    shares = votes(facts.examples, facts.query, {each.model for each in pool})
    if not shares:
        raise UnrankedError("no example of the candidates is alike to the request")
    scores = {each.name: shares.get(each.model, 0.0) for each in pool}
    order = in_order(pool, scores)
    share = scores[order[0].name]
    return Ranking(order=order, scores=scores, reason=f"{share:.0%} of the nearest examples' votes")
