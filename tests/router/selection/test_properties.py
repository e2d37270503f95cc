"""What holds of every selection, whatever the candidates, the facts and the algorithm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxen.router.selection.algorithms import Algorithm, LatencyAware
from flaxen.router.selection.candidate import Candidate, Facts, Live, Prices
from flaxen.router.selection.requirements import CandidateRequirements, split
from flaxen.router.selection.selected import NoModelError, Selected
from flaxen.router.selection.selecting import SESSION, Policy, select
from flaxen.router.selection.sticking import Session, Stickiness
from tests.router.selection.making import (
    ALGORITHMS,
    ASKED,
    IN_LOOP,
    INDEX,
    PERCENTILE,
    WEIGHTED,
    candidate,
    ordered,
    pools,
)

NUM_EXAMPLES = 100
Pool = tuple[list[Candidate], Facts]
_POLICIES = st.builds(
    Policy,
    algorithm=st.sampled_from(ALGORITHMS),
    stickiness=st.sampled_from([Stickiness(), Stickiness(is_priced=True)]),
)
_SESSIONS = st.builds(
    Session,
    candidate=st.sampled_from("abcde").map(candidate),
    num_turns=st.integers(0, 9),
    num_switches=st.integers(0, 9),
    history_tokens=st.integers(0, 9_000),
    idle_s=st.sampled_from([0.0, 1_000.0]),
)


def _selected(pool: Pool, policy: Policy, **also: object) -> Selected | None:
    try:
        return select(ASKED, pool[0], policy, pool[1], **also)  # type: ignore[arg-type]
    except NoModelError:
        return None


@given(pools(), _POLICIES, st.none() | _SESSIONS)
@settings(max_examples=NUM_EXAMPLES)
def test_what_is_selected_can_answer_and_all_others_are_told(
    pool: Pool, policy: Policy, session: Session | None
) -> None:
    able, out = split(ASKED, pool[0], CandidateRequirements(), pool[1], {})
    selected = _selected(pool, policy, session=session)
    assert (selected is None) == (not able)
    if selected is None:
        return
    names = [each.name for each in selected.order]
    assert selected.candidate in able
    assert names[0] == selected.candidate.name
    assert set(out) <= set(selected.excluded)
    assert sorted(names + [each.name for each in selected.excluded]) == sorted(
        each.name for each in pool[0]
    )


@given(pools(), _POLICIES, st.none() | _SESSIONS, st.randoms(use_true_random=False))
@settings(max_examples=NUM_EXAMPLES)
def test_the_order_of_candidates_counts_only_among_equals(
    pool: Pool, policy: Policy, session: Session | None, random: object
) -> None:
    # Distinct in all that an algorithm may compare.
    candidates = [
        replace(each, score=1 + rank / 8, size=float(rank), prices=Prices(prompt=float(rank)))
        for rank, each in enumerate(sorted(pool[0], key=lambda each: each.name))
    ]
    facts = replace(
        pool[1],
        live={
            each.model: replace(pool[1].of(each), ttft_ms={PERCENTILE: rank + 1.0}, in_flight=rank)
            for rank, each in enumerate(candidates)
        },
    )
    shuffled = list(candidates)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    if policy.algorithm.type == "knn":  # falls back to the first, as there are no examples
        policy = replace(policy, algorithm=Algorithm())
    one = _selected((candidates, facts), policy, session=session)
    other = _selected((shuffled, facts), policy, session=session)
    if one is None or other is None:
        assert one is other
        return
    assert bool(one.fallback) == bool(other.fallback)
    if one.fallback:  # the first, or of equals the first
        return
    assert (one.candidate, one.kept) == (other.candidate, other.kept)
    if one.method != SESSION:
        assert one.order == other.order
    assert one.scores == pytest.approx(other.scores)


_BETTER: dict[str, Callable[[Candidate, Live], tuple[Candidate, Live]]] = {
    "quality": lambda each, at: (
        replace(each, quality={INDEX: each.quality[INDEX] + 1} if each.quality else {}),
        at,
    ),
    "cost": lambda each, at: (
        replace(each, prices=each.prices and Prices(prompt=each.prices.prompt / 2)),
        at,
    ),
    "latency": lambda each, at: (
        each,
        replace(
            at,
            ttft_ms={key: value / 2 for key, value in at.ttft_ms.items()},
            tpot_ms={key: value / 2 for key, value in at.tpot_ms.items()},
        ),
    ),
    "load": lambda each, at: (each, replace(at, in_flight=max(at.in_flight - 1, 0))),
    "cached_prefix": lambda each, at: (
        each,
        replace(at, cached_tokens=None if at.cached_tokens is None else at.cached_tokens + 1),
    ),
}


@pytest.mark.parametrize("factor", _BETTER)
@given(pool=pools(), last=st.sampled_from(list(_BETTER)))
@settings(max_examples=NUM_EXAMPLES)
def test_what_becomes_better_in_a_factor_stays_selected(factor: str, pool: Pool, last: str) -> None:
    for settings_ in (WEIGHTED, ordered(*sorted(set(_BETTER) - {last}), last)):
        policy = Policy(algorithm=Algorithm(type="multi_factor", multi_factor=settings_))
        _stays_selected(factor, pool, policy)


@given(pools())
@settings(max_examples=NUM_EXAMPLES)
def test_what_becomes_faster_stays_the_fastest(pool: Pool) -> None:
    latency = LatencyAware(ttft_percentile=PERCENTILE, tpot_percentile=PERCENTILE)
    policy = Policy(algorithm=Algorithm(type="latency_aware", latency_aware=latency))
    _stays_selected("latency", pool, policy)


def _stays_selected(factor: str, pool: Pool, policy: Policy) -> None:
    before = _selected(pool, policy)
    if before is None:
        return
    each, at = _BETTER[factor](before.candidate, pool[1].of(before.candidate))
    candidates = [each if other == before.candidate else other for other in pool[0]]
    facts = replace(pool[1], live={**pool[1].live, each.model: at})
    after = _selected((candidates, facts), policy)
    assert after is not None
    assert after.model == before.model


@given(pools(), _POLICIES, _SESSIONS)
@settings(max_examples=NUM_EXAMPLES)
def test_sticking_again_changes_nothing(pool: Pool, policy: Policy, session: Session) -> None:
    first = _selected(pool, policy, session=session)
    if first is None:
        return
    again = _selected(pool, policy, session=replace(session, candidate=first.candidate))
    assert again is not None
    assert again.model == first.model


@given(pools(), _SESSIONS)
@settings(max_examples=NUM_EXAMPLES)
def test_a_loop_of_tools_keeps_any_model_that_can_answer(pool: Pool, session: Session) -> None:
    candidates = [replace(each, context_window=None) for each in pool[0]]
    facts = pool[1]
    known = facts.of(session.candidate)
    try:
        selected = select(IN_LOOP, candidates, Policy(), facts, session=session)
    except NoModelError:
        assert known.denied or known.is_open
        return
    assert (selected.model == session.candidate.model) or known.denied or known.is_open


@given(pools(), st.sampled_from(ALGORITHMS))
@settings(max_examples=NUM_EXAMPLES)
def test_failures_lead_through_all_that_can_answer_once(pool: Pool, algorithm: Algorithm) -> None:
    able, _ = split(ASKED, pool[0], CandidateRequirements(), pool[1], {})
    failed: dict[str, str] = {}
    while (selected := _selected(pool, Policy(algorithm=algorithm), failed=failed)) is not None:
        assert selected.model not in failed
        failed[selected.model] = "timeout"
    assert set(failed) == {each.model for each in able}


@given(pools())
@settings(max_examples=NUM_EXAMPLES)
def test_draws_fall_through_in_their_own_order(pool: Pool) -> None:
    policy = Policy(algorithm=Algorithm(type="weighted"))
    first = _selected(pool, policy)
    if first is None or first.fallback or len(first.order) < 2:
        return
    second = _selected(pool, policy, failed={first.model: "timeout"})
    assert second is not None
    assert second.order == first.order[1:]
