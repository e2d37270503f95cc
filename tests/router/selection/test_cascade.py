"""The cascade: its order, and when an answer is sure enough."""

from __future__ import annotations

import math

import pytest

from flaxen.router.selection.algorithms import Algorithm, Confidence
from flaxen.router.selection.candidate import Facts, Prices
from flaxen.router.selection.cascade import TokenLogprobs, confidence_of, judge, read_size
from flaxen.router.selection.selecting import Policy, select
from tests.router.selection.making import ASKED, candidate

LARGE = candidate("large", size=70.0, prices=Prices(prompt=1.0))
OPEN = candidate("open")
SMALL = candidate("small", size=0.5, prices=Prices(prompt=2.0))


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("size", ["small", "large", "open"]),
        ("small_to_large", ["small", "large", "open"]),
        ("declared", ["large", "open", "small"]),
        ("cost", ["large", "small", "open"]),
    ],
)
def test_models_are_asked_in_the_configured_order(order: str, names: list[str]) -> None:
    cascade = Confidence(threshold=0.5, escalation_order=order)  # type: ignore[arg-type]
    policy = Policy(algorithm=Algorithm(type="confidence", confidence=cascade))
    selected = select(ASKED, [LARGE, OPEN, SMALL], policy, Facts())
    assert [each.name for each in selected.order] == names
    assert selected.model == names[0]


def test_sizes_are_read_in_billions() -> None:
    assert [read_size(text) for text in ("7B", " 0.5b", "360M", "8x7B", "1.1T", "13")] == [
        *(7.0, 0.5, 0.36, 56.0, 1_100.0, 13.0)
    ]
    assert read_size("small") is None
    assert read_size("") is None


def test_confidence_is_computed_as_in_the_reference() -> None:
    tokens = [TokenLogprobs(-0.5, -3.5), TokenLogprobs(-1.0, -1.0)]
    average, margin = 0.75, 1 - math.exp(-0.5)
    assert confidence_of(tokens, Confidence(threshold=0.5)) == pytest.approx(average)
    assert confidence_of(tokens, Confidence(confidence_method="margin")) == pytest.approx(margin)
    hybrid = Confidence(confidence_method="hybrid")
    assert confidence_of(tokens, hybrid) == pytest.approx((average + margin) / 2)
    assert confidence_of([TokenLogprobs(-9.0)], Confidence(threshold=0.5)) == 0
    assert confidence_of([TokenLogprobs(-9.0)], hybrid) is None
    assert confidence_of([], Confidence(threshold=0.5)) is None


def test_an_answer_is_accepted_from_the_threshold_on() -> None:
    settings = Confidence(threshold=0.6)
    assert judge(0.6, settings).is_accepted
    low = judge(0.59, settings)
    assert (low.is_accepted, low.fails) == (False, False)
    assert low.reason == "its confidence is 0.5900, and must be 0.6"
    assert judge(0.5, Confidence(confidence_method="margin")).is_accepted


def test_an_answer_without_confidence_fails_or_is_skipped() -> None:
    skips = judge(None, Confidence(threshold=0.6))
    assert (skips.is_accepted, skips.fails) == (False, False)
    fails = judge(None, Confidence(threshold=0.6, on_error="fail"))
    assert (fails.is_accepted, fails.fails) == (False, True)


def test_a_cascade_that_never_goes_on_is_refused() -> None:
    with pytest.raises(ValueError, match="avg_logprob needs a threshold from 0 to 1"):
        Confidence()
    with pytest.raises(ValueError, match="type confidence needs the block confidence"):
        Algorithm(type="confidence")
