"""multi_factor: weights, one factor after the other, limits and what is left without them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flaxen.router.selection.algorithms import Algorithm, Limits, MultiFactor, Quality, Weights
from flaxen.router.selection.candidate import Candidate, Facts, Prices
from flaxen.router.selection.factors import cost
from flaxen.router.selection.selected import NoModelError, Selected
from flaxen.router.selection.selecting import Policy, select
from tests.router.selection.making import ASKED, INDEX, WEIGHTED, candidate, live, ordered

CHEAP = candidate("cheap", prices=Prices(prompt=1.0), quality={INDEX: 50.0})
MIDDLE = candidate("middle", prices=Prices(prompt=3.0), quality={INDEX: 80.0})
BEST = candidate("best", prices=Prices(prompt=5.0), quality={INDEX: 90.0})
ALL = [CHEAP, MIDDLE, BEST]


def _select(
    settings: MultiFactor, facts: Facts | None = None, pool: list[Candidate] = ALL
) -> Selected:
    policy = Policy(algorithm=Algorithm(type="multi_factor", multi_factor=settings))
    return select(ASKED, pool, policy, facts or Facts())


def test_factors_are_spread_over_the_pool_and_weighed() -> None:
    facts = Facts(
        live={
            "cheap": live(in_flight=4, tpot=20),
            "middle": live(in_flight=0, tpot=10),
            "best": live(in_flight=2, tpot=15),
        }
    )
    settings = replace(WEIGHTED, weights=Weights(quality=0.4, latency=0.3, cost=0.2, load=0.1))
    selected = _select(settings, facts)
    assert selected.scores == pytest.approx(
        {
            "cheap": 0.2,
            "middle": 0.4 * 0.75 + 0.3 + 0.2 * 0.5 + 0.1,
            "best": 0.4 + 0.3 * 0.5 + 0.1 * 0.5,
        }
    )
    assert selected.model == "middle"


def test_the_cached_prefix_counts() -> None:
    settings = MultiFactor(weights=Weights(cost=0.4, cached_prefix=0.6))
    facts = Facts(live={"best": live(cached_tokens=900), "cheap": live(cached_tokens=0)})
    assert _select(settings).model == "cheap"
    assert _select(settings, facts).model == "best"


def test_a_factor_that_nobody_has_is_ignored_and_named() -> None:
    selected = _select(MultiFactor(), pool=[candidate("a"), candidate("b")])
    assert selected.reason == (
        "the greatest sum of load 1; nothing is known of quality, latency, cost"
    )


def test_a_factor_that_all_share_is_half_and_one_that_is_not_known_is_none() -> None:
    pool = [candidate("a", prices=Prices(prompt=2.0)), candidate("b", prices=Prices(prompt=2.0))]
    settings = MultiFactor(weights=Weights(cost=1.0))
    assert _select(settings, pool=[*pool, candidate("c")]).scores == {"a": 0.5, "b": 0.5, "c": 0.0}


def test_a_latency_that_was_not_observed_counts_as_the_best() -> None:
    settings = MultiFactor(weights=Weights(latency=1.0))
    facts = Facts(live={"cheap": live(tpot=10), "middle": live(tpot=20)})
    assert _select(settings, facts).model == "best"
    observed = Facts(live={**facts.live, "best": live(tpot=30)})
    assert _select(settings, observed).model == "cheap"
    # One metric for all, though the second was only seen in its time to the first token.
    mixed = Facts(live={"cheap": live(tpot=10), "middle": live(ttft=1), "best": live(tpot=5)})
    assert _select(settings, mixed).scores == {"cheap": 0.0, "middle": 1.0, "best": 1.0}


def test_one_factor_after_the_other_within_a_tolerance_of_the_best() -> None:
    exact = _select(ordered("quality", "cost"))
    assert (exact.model, exact.reason) == ("best", "quality leaves 1, cost leaves 1")
    band = _select(ordered("quality", "cost", tolerance=0.2))  # 72 and more
    assert (band.model, band.reason) == ("middle", "quality leaves 2, cost leaves 1")
    assert [each.name for each in band.order] == ["middle", "best", "cheap"]
    assert band.scores == {"middle": 1.0, "best": 0.5, "cheap": 0.0}


def test_quality_that_is_missing_excludes_or_disables() -> None:
    pool = [candidate("new", prices=Prices(prompt=0.5)), *ALL]
    disabled = _select(ordered("quality", "cost"), pool=pool)
    assert disabled.model == "new"
    assert disabled.reason.startswith("nothing is known of quality")
    strict = replace(ordered("quality", "cost"), quality=Quality(index=INDEX, min_score=60.0))
    selected = _select(strict, pool=pool)
    assert [(each.name, each.cause) for each in selected.excluded] == [
        ("new", "quality"),
        ("cheap", "quality"),
    ]
    assert str(selected.excluded[0]) == "new: it has no value of skill"


@pytest.mark.parametrize(
    ("limit", "left"),
    [
        (Limits(max_ttft_ms=5), ["middle", "best"]),
        (Limits(max_tpot_ms=5), ["cheap", "best"]),
        (Limits(max_inflight=3), ["cheap", "middle"]),
        (Limits(max_cost_per_1m=3), ["cheap", "middle"]),
    ],
)
def test_what_is_over_a_limit_is_out_and_what_is_unknown_is_not(
    limit: Limits, left: list[str]
) -> None:
    facts = Facts(live={"cheap": live(ttft=6), "middle": live(tpot=6), "best": live(in_flight=4)})
    selected = _select(MultiFactor(slo=limit), facts)
    assert sorted(each.name for each in selected.order) == sorted(left)
    assert [each.cause for each in selected.excluded] == ["limit"]


def test_nothing_within_the_limits_falls_back_as_configured_and_says_so_or_fails() -> None:
    pool = [BEST, CHEAP, candidate("unpriced")]
    facts = Facts(live={each.name: live(ttft=9) for each in pool})
    settings = MultiFactor(slo=Limits(max_ttft_ms=5))
    told = "no candidate is within the limits \\(best: 9 is over max_ttft_ms 5; cheap: "
    cheapest = _select(settings, facts, pool)
    assert (cheapest.model, cheapest.reason) == ("cheap", "on_no_candidates: cheapest")
    assert cheapest.fallback.startswith(told.replace("\\", ""))
    assert _select(replace(settings, on_no_candidates="first"), facts, pool).model == "best"
    with pytest.raises(NoModelError, match="on_no_candidates is fail: best: 9 is over") as caught:
        _select(replace(settings, on_no_candidates="fail"), facts, pool)
    assert caught.value.may_pass
    short = candidate("short", max_output_tokens=1)
    settings = replace(settings, on_no_candidates="fail")
    policy = Policy(algorithm=Algorithm(type="multi_factor", multi_factor=settings))
    with pytest.raises(NoModelError, match=r"short: the answer may have 2 tokens.*best: 9 is over"):
        select(replace(ASKED, max_tokens=2), [short, BEST], policy, facts)
    # Limits hold where a decision has one model, too.
    with pytest.raises(NoModelError, match="on_no_candidates is fail"):
        _select(replace(settings, on_no_candidates="fail"), facts, [BEST])


def test_a_requests_cost_counts_what_the_cache_has_for_less() -> None:
    each = candidate("a", prices=Prices(prompt=4.0, completion=8.0, cached=1.0), count_tokens=len)
    # 4 tokens frame the message, and the texts have 9 letters.
    assert cost(ASKED, each, Facts(), 10) == pytest.approx((13 * 4 + 10 * 8) / 1e6)
    facts = Facts(live={"a": live(cached_tokens=8)})
    assert cost(ASKED, each, facts, 10) == pytest.approx((5 * 4 + 8 * 1 + 10 * 8) / 1e6)
    assert cost(ASKED, each, facts, None) == 4.0
    assert cost(ASKED, candidate("b"), facts, 10) is None
