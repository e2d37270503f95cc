"""Sessions keep models where state holds them, and where a switch costs more than it gains."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flaxen.router.selection.algorithms import Algorithm, MultiFactor, Weights
from flaxen.router.selection.candidate import Facts, Prices
from flaxen.router.selection.selected import NoModelError
from flaxen.router.selection.selecting import Policy, select
from flaxen.router.selection.sticking import Session, Stickiness, price
from tests.router.selection.making import ASKED, IN_LOOP, candidate, live

OLD, NEW = candidate("old", score=0.5), candidate("new")
ELSEWHERE = candidate("elsewhere")
SESSION = Session(candidate=OLD, num_turns=3)
CONTINUED = replace(ASKED, previous_response_id="resp_1")
OPEN = Facts(live={"old": live(is_open=True)})
PRICED = Policy(stickiness=Stickiness(is_priced=True))


def test_a_loop_of_tools_keeps_its_model() -> None:
    selected = select(IN_LOOP, [OLD, NEW], Policy(), Facts(), session=SESSION)
    assert (selected.model, selected.method) == ("old", "session")
    assert selected.kept == "it is in a loop of tools"
    assert [each.name for each in selected.order] == ["old", "new"]
    assert select(ASKED, [OLD, NEW], Policy(), Facts(), session=SESSION).model == "new"
    # Also where another decision won, that does not name it.
    away = Session(candidate=ELSEWHERE)
    assert select(IN_LOOP, [OLD, NEW], Policy(), Facts(), session=away).model == "elsewhere"


def test_a_loop_goes_on_elsewhere_where_its_model_cannot_and_says_so() -> None:
    selected = select(IN_LOOP, [OLD, NEW], Policy(), OPEN, session=SESSION)
    assert (selected.model, selected.kept) == ("new", "")
    assert selected.reason.endswith(
        "; old is not kept: its circuit is open, because it failed too often"
    )


def test_a_response_is_continued_where_it_is_or_not_at_all() -> None:
    bypass = Policy(stickiness=Stickiness(mode="bypass"))
    for policy in (Policy(), bypass):
        selected = select(CONTINUED, [OLD, NEW], policy, Facts(), session=SESSION)
        assert selected.kept == "it has the response resp_1 that the request continues"
        assert selected.order == (OLD,)
        with pytest.raises(NoModelError, match="no other model can answer: it has the response"):
            select(CONTINUED, [OLD, NEW], policy, OPEN, session=SESSION)
    kept = select(
        replace(ASKED, conversation_id="conv_1"), [NEW], Policy(), Facts(), session=SESSION
    )
    assert kept.kept == "it has the conversation conv_1 that the request continues"
    unknown = select(CONTINUED, [OLD, NEW], Policy(), Facts())
    assert unknown.reason.endswith("; nobody knows which model has resp_1")


def test_a_decision_and_a_scope_can_keep_the_model() -> None:
    keeps = Policy(stickiness=Stickiness(keeps_current=True))
    kept = select(ASKED, [OLD, NEW], keeps, Facts(), session=SESSION)
    assert kept.kept == "the decision keeps the current model"
    scope = Policy(stickiness=Stickiness(is_priced=True, scope="session"))
    assert select(ASKED, [OLD, NEW], scope, Facts(), session=SESSION).kept
    idle = replace(SESSION, idle_s=301.0)
    assert select(ASKED, [OLD, NEW], scope, Facts(), session=idle).model == "new"
    # A decision answers by its own models: such rules keep none of another decision.
    away = Session(candidate=ELSEWHERE)
    selected = select(ASKED, [OLD, NEW], keeps, Facts(), session=away)
    assert selected.model == "new"
    assert selected.reason.endswith("elsewhere is not kept, as the decision does not name it")


def test_a_session_stays_for_its_first_turns_unless_another_decision_won() -> None:
    first_two = Policy(stickiness=Stickiness(is_priced=True, min_turns=4, switch_margin=0.0))
    kept = select(ASKED, [OLD, NEW], first_two, Facts(), session=SESSION)
    assert kept.kept == "the session has 3 turns of 4"
    drifted = replace(SESSION, has_drifted=True)
    assert select(ASKED, [OLD, NEW], first_two, Facts(), session=drifted).method == "static"


def _price(session: Session, facts: Facts, stickiness: Stickiness | None = None) -> float:
    pool = [OLD, NEW]
    return price(ASKED, session, NEW, pool, facts, stickiness or Stickiness())


def test_a_switch_costs_the_prefix_that_it_loses() -> None:
    new = Session(candidate=OLD, num_turns=0)
    assert _price(new, Facts()) == pytest.approx(0.05 + 0.10 + 0.05)
    long = replace(new, num_turns=8, history_tokens=9_000, num_switches=4)
    unknown = 0.20 * 0.5 * (1 + 1.5 * 0.5)  # of a mass of 1, half warm, prices not known
    assert _price(long, Facts()) == pytest.approx(0.20 + 0.02 + 2 * unknown)
    lives = {"old": live(cached_tokens=10_000), "new": live(cached_tokens=10_000)}
    assert _price(long, Facts(live=lives)) == pytest.approx(0.22)  # nothing is lost
    costs = [
        _price(long, Facts(live={"old": live(cached_tokens=number)})) for number in range(0, 9, 2)
    ]
    assert costs == sorted(set(costs))
    assert _price(replace(long, idle_s=301.0), Facts()) == 0
    assert _price(long, Facts(), Stickiness(stability_weight=0.0)) == 0.05


def test_a_cached_token_that_saves_more_weighs_more() -> None:
    dear = replace(OLD, prices=Prices(prompt=10.0, cached=1.0))
    plain = replace(NEW, prices=Prices(prompt=1.0, cached=1.0))
    session = Session(candidate=dear, num_turns=8, history_tokens=9_000)
    leaving = price(ASKED, session, plain, [dear, plain], Facts(), Stickiness())
    joining = price(
        ASKED, replace(session, candidate=plain), dear, [dear, plain], Facts(), Stickiness()
    )
    assert leaving == pytest.approx(0.20 + 2 * 0.1 * 2.5)
    assert joining == pytest.approx(0.20 + 0.1 + 0.1 * 2.5)


def test_a_session_switches_only_for_a_model_that_is_better_by_the_price() -> None:
    # 0.20 for any switch; after three turns of no known history, 2 * 0.2 * 0.075 * 0.5 * 1.75.
    least = _price(SESSION, Facts())
    assert least == pytest.approx(0.22625)
    for score, model in ((1 - least + 0.01, "old"), (1 - least - 0.01, "new")):
        pool = [candidate("old", score=score), NEW]
        selected = select(ASKED, pool, PRICED, Facts(), session=SESSION)
        assert selected.model == model
        assert bool(selected.kept) == (model == "old")
        assert selected.order[0].name == model


def test_observing_tells_and_changes_nothing() -> None:
    observes = Policy(stickiness=Stickiness(mode="observe", is_priced=True))
    near = [candidate("old", score=0.9), NEW]
    selected = select(ASKED, near, observes, Facts(), session=SESSION)
    assert (selected.model, selected.kept) == ("new", "")
    assert "if it applied, no switch: new is better than the session's old" in selected.reason
    in_loop = select(IN_LOOP, near, observes, Facts(), session=SESSION)
    assert in_loop.model == "new"
    assert in_loop.reason.endswith("if it applied, old would be kept: it is in a loop of tools")


def test_draws_are_no_better_than_the_sessions_model_and_fallbacks_are_not_priced() -> None:
    drawn = replace(PRICED, algorithm=Algorithm(type="weighted"))
    for seed in "abc":
        assert select(ASKED, [OLD, NEW], drawn, Facts(seed=seed), session=SESSION).model == "old"
    idle = replace(SESSION, idle_s=301.0)
    drawn_anew = {
        select(ASKED, [OLD, NEW], drawn, Facts(seed=seed), session=idle).model for seed in "abcdef"
    }
    assert drawn_anew == {"old", "new"}
    fallback = replace(PRICED, algorithm=Algorithm(type="knn"))
    assert select(ASKED, [NEW, OLD], fallback, Facts(), session=SESSION).model == "new"


def test_a_cached_prefix_can_be_worth_a_switch_back() -> None:
    cached = MultiFactor(weights=Weights(cached_prefix=1.0))
    policy = replace(PRICED, algorithm=Algorithm(type="multi_factor", multi_factor=cached))
    facts = Facts(live={"old": live(cached_tokens=0), "new": live(cached_tokens=9)})
    assert select(ASKED, [OLD, NEW], policy, facts, session=SESSION).model == "new"
