"""Algorithms that rank by one thing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flaxen.router.selection.algorithms import Algorithm, LatencyAware
from flaxen.router.selection.candidate import Candidate, Facts
from flaxen.router.selection.neighbours import Examples
from flaxen.router.selection.selected import NoModelError, Selected
from flaxen.router.selection.selecting import Policy, select
from tests.router.selection.making import ASKED, PERCENTILE, candidate, live

A, B, C = candidate("a"), candidate("b"), candidate("c")
FASTEST = Algorithm(type="latency_aware", latency_aware=LatencyAware(ttft_percentile=PERCENTILE))
NEAREST = Algorithm(type="knn")


def _select(
    candidates: list[Candidate], algorithm: Algorithm, facts: Facts | None = None
) -> Selected:
    return select(ASKED, candidates, Policy(algorithm=algorithm), facts or Facts())


def test_one_candidate_needs_no_algorithm() -> None:
    selected = _select([A], FASTEST)
    assert (selected.model, selected.method) == ("a", "single")


def test_static_takes_the_greatest_score_and_the_first_of_equals() -> None:
    assert _select([A, B], Algorithm()).model == "a"
    selected = _select([candidate("a", score=1.5), candidate("b", score=3.0)], Algorithm())
    assert (selected.model, selected.scores) == ("b", {"a": 0.5, "b": 1.0})


def test_weights_are_the_shares_of_draws() -> None:
    candidates = [candidate("a", weight=3.0), candidate("b"), candidate("c", weight=0.0)]
    algorithm = Algorithm(type="weighted")
    drawn = [_select(candidates, algorithm, Facts(seed=str(seed))) for seed in range(800)]
    share = sum(each.model == "a" for each in drawn) / len(drawn)
    assert share == pytest.approx(0.75, abs=0.05)  # 3.3 standard deviations; seeds are fixed
    assert drawn[0].scores == {"a": 0.75, "b": 0.25}
    assert [str(each) for each in drawn[0].excluded] == ["c: its weight is 0"]
    again = [_select(candidates[::-1], algorithm, Facts(seed=str(seed))) for seed in range(20)]
    assert [each.model for each in again] == [each.model for each in drawn[:20]]


def test_a_model_that_goes_moves_no_other_draw() -> None:
    algorithm = Algorithm(type="weighted")
    for seed in map(str, range(50)):
        before = _select([A, B, C], algorithm, Facts(seed=seed)).model
        after = _select([A, B], algorithm, Facts(seed=seed)).model
        assert after == before or before == "c"


def test_latency_is_the_mean_of_ratios_to_the_best() -> None:
    settings = LatencyAware(ttft_percentile=PERCENTILE, tpot_percentile=PERCENTILE)
    facts = Facts(live={"a": live(10, 30), "b": live(20, 10), "c": live(15, 15)})
    algorithm = Algorithm(type="latency_aware", latency_aware=settings)
    selected = _select([A, B, C], algorithm, facts)
    assert selected.scores == pytest.approx({"a": 1 / 2, "b": 1 / 1.5, "c": 1 / 1.5})
    assert [each.name for each in selected.order] == ["b", "c", "a"]
    assert selected.reason == "ttft p95 and tpot p95: the least"


def test_a_model_that_was_not_observed_is_tried_but_not_by_all_at_once() -> None:
    lives = {"a": live(10), "b": live(None), "c": live(30)}
    selected = _select([A, B, C], FASTEST, Facts(live=lives))
    assert selected.model == "b"
    assert selected.reason == "ttft p95: not observed yet, so that it is tried"
    busy = lives | {"b": live(None, in_flight=1)}
    assert _select([A, B, C], FASTEST, Facts(live=busy)).model == "a"
    slow = lives | {"b": live(40)}
    assert _select([A, B, C], FASTEST, Facts(live=slow)).model == "a"


def test_neighbours_vote_by_likeness_and_score() -> None:
    examples = Examples(
        vectors=np.array([[2, 0], [1, 1], [1, 0], [-1, 0]], np.float32),
        models=("a", "b", "gone", "b"),
        scores=np.array([0.5, 1, 1, 1], np.float32),
    )
    selected = _select([A, B], NEAREST, Facts(query=[3.0, 0.0], examples=examples))
    root = 0.5**0.5
    assert selected.scores == pytest.approx({"a": 0.5 / (0.5 + root), "b": root / (0.5 + root)})
    assert selected.model == "b"
    nearest = replace(examples, k=1)  # of those that are candidates
    assert _select([A, B], NEAREST, Facts(query=[3.0, 0.0], examples=nearest)).scores == {
        "a": 1.0,
        "b": 0.0,
    }


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        (Facts(), "the request has no embedding"),
        (Facts(query=[1.0]), "there are no examples"),
        (
            Facts(
                query=[1.0],
                examples=Examples(np.array([[-1]], np.float32), ("a",), np.array([1], np.float32)),
            ),
            "no example of the candidates is alike",
        ),
    ],
)
def test_an_algorithm_that_cannot_choose_says_so_or_fails(facts: Facts, why: str) -> None:
    selected = _select([A, B], NEAREST, facts)
    assert selected.model == "a"
    assert selected.fallback.startswith(f"knn could not choose: {why}")
    with pytest.raises(NoModelError, match=f"knn could not choose: {why}.*on_error is fail"):
        _select([A, B], Algorithm(type="knn", on_error="fail"), facts)


def test_without_weights_there_is_no_draw() -> None:
    none = [candidate("a", weight=0.0), candidate("b", weight=0.0)]
    selected = _select(none, Algorithm(type="weighted"))
    assert selected.fallback == "weighted could not choose: all candidates have weight 0"


def test_examples_must_fit() -> None:
    one, score = np.ones((1, 2), np.float32), np.ones(1, np.float32)
    with pytest.raises(ValueError, match="vectors, models and scores: give each example"):
        Examples(one, ("a", "b"), score)
    with pytest.raises(ValueError, match="vector of an example is zero"):
        Examples(0 * one, ("a",), score)
    with pytest.raises(ValueError, match="the query has 1 dimensions and the examples 2"):
        _select([A, B], NEAREST, Facts(query=[1.0], examples=Examples(one, ("a",), score)))


@pytest.mark.parametrize(
    "name",
    ["automix", "hybrid", "kmeans", "svm", "mlp", "router_dc", "prompt", "ratings", "remom", "elo"],
)
def test_algorithms_of_the_reference_that_are_not_here_are_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"the algorithm {name} is not supported: it .*; use "):
        Algorithm(type=name)


def test_several_models_and_too_few_candidates_are_refused() -> None:
    with pytest.raises(NoModelError, match="fusion asks several models"):
        _select([A, B], Algorithm(type="fusion"))
    two = Algorithm(minimum_candidates=2)
    facts = Facts(live={"a": live(is_open=True)})
    assert _select([A, B], two).model == "a"
    with pytest.raises(NoModelError, match="1 candidates can answer, of at least 2"):
        _select([A, B], two, facts)
    # A model that failed this request counted before.
    policy = Policy(algorithm=two)
    assert select(ASKED, [A, B], policy, Facts(), failed={"a": "timeout"}).model == "b"
