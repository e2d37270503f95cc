"""Drafts are made where they are expected to gain more than they cost."""

from __future__ import annotations

from flaxen.engine.speculative.payoff import Acceptance, Offer, Payoff


def measured(fixed_s: float, token_s: float) -> Payoff:
    payoff = Payoff()
    for num_tokens in (200, 1, 1, 2, 300, 1, 4, 1, 16, 1, 100, 1, 8, 1) * 4:
        payoff.observe(num_tokens, 0, fixed_s + num_tokens * token_s)
    return payoff


def test_drafts_are_as_long_as_the_next_token_pays() -> None:
    payoff = measured(0.016, 0.0004)
    right, half, wrong = (Offer(rate, 15) for rate in (1.0, 0.5, 0.05))
    assert payoff.choose([right], 1, 64) == [15]
    assert payoff.choose([right], 1, 4) == [4]
    assert 2 <= payoff.choose([half], 1, 64)[0] <= 7
    assert payoff.choose([wrong], 1, 64) == [0]
    assert payoff.choose([right, wrong], 2, 64)[0] == 15


def test_many_sequences_end_speculation() -> None:
    payoff = measured(0.016, 0.0004)
    offer = Offer(0.6, 15)
    numbers = [sum(payoff.choose([offer] * n, n, 1000)) / n for n in (1, 4, 16, 64)]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] > 2 * numbers[-1]


def test_a_draft_model_must_be_faster_than_the_model() -> None:
    payoff = measured(0.016, 0.0004)
    assert payoff.choose([Offer(0.9, 8)], 1, 64, draft_s=0.004)[0] >= 4
    assert payoff.choose([Offer(0.9, 8)], 1, 64, draft_s=0.016) == [0]


def test_nothing_is_drafted_where_the_wait_costs_more() -> None:
    payoff = measured(0.016, 0.0004)
    for _ in range(200):
        payoff.observe_wait(0.02)
    assert payoff.choose([Offer(0.5, 2)], 1, 64) == [0]


def test_an_acceptance_follows_what_happens() -> None:
    found = Acceptance(0.5)
    for _ in range(20):
        found.observe(0, then_wrong=True)
    assert found.rate < 0.01
    found.observe(8, then_wrong=False)
    assert found.rate > 0.8


def test_a_draft_model_is_tried_again_after_longer_and_longer_pauses() -> None:
    found, tries = Acceptance(0.8), []
    for token in range(300):
        if found.rate == 0.8:
            tries.append(token)
            for _ in range(9):
                found.observe(0, then_wrong=True)
        found.skip()
    assert tries == [0, 32, 96, 224]
