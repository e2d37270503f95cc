"""The algorithm multi_factor: quality, latency, cost, load and cached prefix, by weights or one
after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from flaxen.router.request import RoutedRequest
from flaxen.router.selection.algorithms import FACTORS, MultiFactor, Weights
from flaxen.router.selection.candidate import Candidate, Facts
from flaxen.router.selection.ranking import Ranking, in_order, latency
from flaxen.router.selection.requirements import num_prompt_tokens
from flaxen.router.selection.selected import Excluded, NoModelError

_EQUAL = Weights(quality=0.25, latency=0.25, cost=0.25, load=0.25)
_IS_BETTER_IF_GREATER = {"quality", "cached_prefix"}
_Values = Mapping[str, float | None]  # by a candidate's name; None: not known


def by_factors(
    request: RoutedRequest, pool: Sequence[Candidate], settings: MultiFactor, facts: Facts
) -> Ranking:
    """Ranks a pool by several factors, after taking out what is over the limits (slo) or has no
    quality.

    A latency that was not observed counts as the best of the pool, as in latency_aware. Of equals,
    the one with fewer requests in flight comes first, then one whose latency was not observed.

    Raises:
      NoModelError: nothing is within the limits, and on_no_candidates is fail.
    """
    excluded = [each for each in (_over(each, settings, facts) for each in pool) if each]
    out = {each.name for each in excluded}
    left = [each for each in pool if each.name not in out]
    if not left:
        return _without(pool, settings, excluded)
    metric = settings.latency_metric or _observed_metric(left, settings, facts)
    values = {name: _values(name, request, left, settings, facts, metric) for name in FACTORS}
    is_new = {name: value is None for name, value in values["latency"].items()}
    if all(is_new.values()):
        is_new = dict.fromkeys(is_new, False)
    values["latency"] = _optimistic(values["latency"])

    def tie(candidate: Candidate) -> tuple[float, ...]:
        return facts.of(candidate).in_flight, not is_new[candidate.name]

    if settings.objective.strategy == "lexicographic":
        scores, reason = _one_by_one(left, settings, values)
    else:
        scores, reason = _weighted(left, settings.weights or _EQUAL, values)
    return Ranking(
        order=in_order(left, scores, tie), scores=scores, reason=reason, excluded=tuple(excluded)
    )


def _over(candidate: Candidate, settings: MultiFactor, facts: Facts) -> Excluded | None:
    """Why a candidate may not be taken; what is not known is not over a limit."""
    limits, percentile = settings.slo, settings.latency_percentile
    price = candidate.prices.prompt if candidate.prices else None
    for what, value, most in (
        ("max_ttft_ms", latency(facts, candidate, "ttft", percentile), limits.max_ttft_ms),
        ("max_tpot_ms", latency(facts, candidate, "tpot", percentile), limits.max_tpot_ms),
        ("max_cost_per_1m", price, limits.max_cost_per_1m),
        ("max_inflight", facts.of(candidate).in_flight, limits.max_inflight),
    ):
        if value is not None and most is not None and value > most:
            return Excluded(candidate.name, "limit", f"{value:g} is over {what} {most:g}")
    quality = settings.quality
    if quality is None:
        return None
    value = candidate.quality.get(quality.index)
    if value is None and quality.on_missing == "exclude":
        return Excluded(candidate.name, "quality", f"it has no value of {quality.index}")
    if value is not None and quality.min_score is not None and value < quality.min_score:
        reason = f"its {quality.index} {value:g} is below min_score {quality.min_score:g}"
        return Excluded(candidate.name, "quality", reason)
    return None


def _without(
    pool: Sequence[Candidate], settings: MultiFactor, excluded: Sequence[Excluded]
) -> Ranking:
    """The choice where no candidate is within the limits."""
    how = settings.on_no_candidates
    told = f"no candidate is within the limits ({'; '.join(map(str, excluded))})"
    if how == "fail":
        raise NoModelError(
            "no candidate is within the limits, and on_no_candidates is fail", excluded
        )
    order = tuple(pool)
    if how == "cheapest":
        order = tuple(
            sorted(pool, key=lambda each: each.prices.prompt if each.prices else math.inf)
        )
    reason = f"on_no_candidates: {how}"
    return Ranking(order=order, scores={}, reason=reason, compares=False, fallback=told)


def _observed_metric(pool: Sequence[Candidate], settings: MultiFactor, facts: Facts) -> str:
    """tpot where some candidate has it, else ttft: one metric for all, so that they compare."""
    percentile = settings.latency_percentile
    has_tpot = any(latency(facts, each, "tpot", percentile) is not None for each in pool)
    return "tpot" if has_tpot else "ttft"


def _values(
    factor: str,
    request: RoutedRequest,
    pool: Sequence[Candidate],
    settings: MultiFactor,
    facts: Facts,
    metric: str,
) -> _Values:
    """A factor's value of each candidate."""
    if factor == "quality":
        index = settings.quality.index if settings.quality else ""
        found = {each.name: each.quality.get(index) for each in pool}
        # Without exclusion a factor that some lack compares nothing.
        return found if None not in found.values() else dict.fromkeys(found)
    if factor == "latency":
        percentile = settings.latency_percentile
        return {each.name: latency(facts, each, metric, percentile) for each in pool}
    if factor == "cost":
        num_output = settings.expected_output_tokens
        return {each.name: cost(request, each, facts, num_output) for each in pool}
    if factor == "load":
        return {each.name: facts.of(each).in_flight for each in pool}
    return {each.name: facts.of(each).cached_tokens for each in pool}


def cost(
    request: RoutedRequest, candidate: Candidate, facts: Facts, num_output: int | None
) -> float | None:
    """What a request costs: its prompt, what the cache has of it for less, and num_output tokens.
    Without num_output, the price of a million prompt tokens. None: no price is known."""
    prices = candidate.prices
    if prices is None:
        return None
    if num_output is None:
        return prices.prompt
    num_prompt = num_prompt_tokens(request, candidate)
    num_cached = min(facts.of(candidate).cached_tokens or 0, num_prompt)
    return (
        (num_prompt - num_cached) * prices.prompt
        + num_cached * prices.of_cached
        + num_output * prices.completion
    ) / 1e6


def _optimistic(values: _Values) -> _Values:
    """Values where what is not known is as good as the least."""
    best = min((value for value in values.values() if value is not None), default=None)
    return {name: best if value is None else value for name, value in values.items()}


def _weighted(
    pool: Sequence[Candidate], weights: Weights, values: Mapping[str, _Values]
) -> tuple[dict[str, float], str]:
    """Scores by the weighted mean of factors that some candidate has, each spread over 0 to 1."""
    used = {
        factor: weight
        for factor in FACTORS
        if (weight := getattr(weights, factor)) > 0
        and any(value is not None for value in values[factor].values())
    }
    whole = sum(used.values())
    spread = {factor: _spread(factor, values[factor]) for factor in used}
    scores = {
        each.name: sum(weight * spread[factor][each.name] for factor, weight in used.items())
        / (whole or 1.0)
        for each in pool
    }
    told = ", ".join(f"{factor} {weight / whole:.2g}" for factor, weight in used.items())
    ignored = [factor for factor in FACTORS if getattr(weights, factor) > 0 and factor not in used]
    reason = f"the greatest sum of {told}" if used else "no factor is known of any candidate"
    return scores, reason + (f"; nothing is known of {', '.join(ignored)}" if ignored else "")


def _spread(factor: str, values: _Values) -> dict[str, float]:
    """Values from 0 (worst) to 1 (best); 0.5 where all are equal, 0 where none is known."""
    known = [value for value in values.values() if value is not None]
    low, high = min(known), max(known)

    def share(value: float | None) -> float:
        if value is None or low == high:
            return 0.0 if value is None else 0.5
        part = (value - low) / (high - low)
        return part if factor in _IS_BETTER_IF_GREATER else 1 - part

    return {name: share(value) for name, value in values.items()}


def _one_by_one(
    pool: Sequence[Candidate], settings: MultiFactor, values: Mapping[str, _Values]
) -> tuple[dict[str, float], str]:
    """Scores by how many factors a candidate stays within the tolerance of, as a share of all."""
    left = [each.name for each in pool]
    stayed = dict.fromkeys(left, 0)
    told = []
    for priority in settings.objective.priorities:
        sign = 1 if priority.factor in _IS_BETTER_IF_GREATER else -1
        goods = {
            name: sign * value
            for name in left
            if (value := values[priority.factor][name]) is not None
        }
        if goods:
            best = max(goods.values())
            least = best - priority.tolerance * abs(best)
            left = [name for name, good in goods.items() if good >= least]
            told.append(f"{priority.factor} leaves {len(left)}")
        else:
            told.append(f"nothing is known of {priority.factor}")
        for name in left:
            stayed[name] += 1
    num_factors = len(settings.objective.priorities)
    return {name: count / num_factors for name, count in stayed.items()}, ", ".join(told)
