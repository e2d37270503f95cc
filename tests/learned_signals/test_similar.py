"""Similarities: what a bank's score is, which rules match, and which of them stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flaxen.learned_signals.bank import make_bank
from flaxen.learned_signals.reask import ReaskFinder
from flaxen.learned_signals.similar import ComplexityFinder, EmbeddingFinder, PreferenceFinder
from flaxen.router.request import Message, RoutedRequest
from flaxen.router.signals.complexity import ComplexityCandidates, ComplexityRule
from flaxen.router.signals.embedded import (
    EmbeddingRule,
    PreferenceRule,
    PrototypeScoring,
    ReaskRule,
)
from flaxen.router_config.signal_settings import EmbeddingSettings
from tests.learned_signals.made import asked, find, vector

ALL = PrototypeScoring(enabled=False)
VECTORS = {
    "x": vector(1, 0, 0),
    "y": vector(0, 1, 0),
    "xy": vector(1, 1, 0),
    "z": vector(0, 0, 1),
    "nearly x": vector(1, 0.1, 0),
}


def test_a_bank_mixes_its_best_with_the_mean_of_the_top() -> None:
    rows = np.stack([VECTORS["x"], VECTORS["y"], VECTORS["z"]])
    asked_for = vector(3, 2, 1)
    a, b, c = np.array([3, 2, 1]) / np.sqrt(14)
    texts = ["x", "y", "z"]
    scored = make_bank(texts, rows, ALL).score(asked_for)
    assert scored == pytest.approx(0.75 * a + 0.25 * (a + b) / 2)
    assert make_bank(texts, rows, ALL, "any").score(asked_for) == scored
    mean = make_bank(texts, rows, ALL, "mean").score(asked_for)
    assert mean == pytest.approx((a + b + c) / 3)


def test_texts_that_are_alike_are_one_prototype() -> None:
    """x and nearly x are one group, whose medoid is the first of equals."""
    texts = ["y", "x", "nearly x", "x"]
    rows = np.stack([VECTORS[text] for text in texts])
    bank = make_bank(texts, rows, PrototypeScoring())
    np.testing.assert_array_equal(bank.prototypes, np.stack([VECTORS["x"], VECTORS["y"]]))
    one = make_bank(texts, rows, PrototypeScoring(max_prototypes=1))
    np.testing.assert_array_equal(one.prototypes, VECTORS["x"][None])


def embedding(text: str, *rules: EmbeddingRule, **settings: Any) -> dict[str, bool | None]:
    finder = EmbeddingFinder(rules, EmbeddingSettings(prototype_scoring=ALL, **settings), VECTORS)
    found = find(finder, asked(text), VECTORS)
    return {name: result.matched for name, result in found.items()}


def test_the_best_rules_stay() -> None:
    rules = [
        EmbeddingRule(name="a", threshold=0.6, candidates=("x",)),
        EmbeddingRule(name="b", threshold=0.6, candidates=("nearly x",)),
        EmbeddingRule(name="c", threshold=0.6, candidates=("z",)),
    ]
    assert embedding("x", *rules) == {"a": True, "b": False, "c": False}
    assert embedding("x", *rules, top_k=0) == {"a": True, "b": True, "c": False}


def test_below_its_threshold_a_rule_matches_where_no_other_does() -> None:
    rules = [
        EmbeddingRule(name="a", threshold=0.9, candidates=("x",)),
        EmbeddingRule(name="b", threshold=0.9, candidates=("z",)),
    ]
    assert embedding("xy", *rules) == {"a": True, "b": False}
    assert embedding("xy", *rules, min_score_threshold=0.8) == {"a": False, "b": False}
    assert embedding("xy", *rules, enable_soft_matching=False) == {"a": False, "b": False}


def test_negatives_are_taken_off() -> None:
    rule = EmbeddingRule(name="a", threshold=0.5, candidates=("x",), negative_candidates=("y",))
    finder = EmbeddingFinder([rule], EmbeddingSettings(prototype_scoring=ALL), VECTORS)
    assert find(finder, asked("xy"), VECTORS)["a"].value == pytest.approx(0, abs=1e-6)
    assert find(finder, asked("x"), VECTORS)["a"].matched is True
    assert find(finder, asked("y"), VECTORS)["a"].value == pytest.approx(-1)


def test_a_rule_about_images_is_unknown_where_there_is_one() -> None:
    rule = EmbeddingRule(name="a", threshold=0.5, candidates=("x",), query_modality="image")
    finder = EmbeddingFinder([rule], EmbeddingSettings(), VECTORS)
    assert find(finder, asked("x"), VECTORS)["a"].matched is False
    message = Message(role="user", text="x", num_images=1)
    request = RoutedRequest(api="chat", model="auto", messages=(message,))
    assert find(finder, request, VECTORS)["a"].matched is None


def test_one_preference_matches_if_it_is_near_and_ahead() -> None:
    rules = [
        PreferenceRule(name="a", description="x", threshold=0.9),
        PreferenceRule(name="b", examples=("y", "z")),
    ]
    how = PrototypeScoring(enabled=False, best_weight=1, margin_threshold=0.2)

    def names(text: str) -> list[str]:
        found = find(PreferenceFinder(rules, how, VECTORS), asked(text), VECTORS)
        return [name for name, result in found.items() if result.matched]

    assert names("x") == ["a"]
    assert names("z") == ["b"]
    assert names("xy") == []  # as near to one as to the other


@pytest.mark.parametrize(
    ("bounds", "levels"),
    [
        ({}, ["hard", "easy", "medium", "medium"]),
        ({"threshold": 0.0}, ["hard", "easy", "medium", "medium"]),
        ({"hard_above": 0.025, "easy_below": -0.08}, ["hard", "easy", "medium", "medium"]),
        ({"easy_above": 0.5, "hard_below": -0.5}, ["easy", "hard", "medium", "medium"]),
    ],
)
def test_complexity_is_one_of_three_levels(bounds: dict[str, float], levels: list[str]) -> None:
    rule = ComplexityRule(
        name="c",
        hard=ComplexityCandidates(candidates=("x",)),
        easy=ComplexityCandidates(candidates=("y",)),
        **bounds,
    )
    finder = ComplexityFinder([rule], ALL, VECTORS)
    for text, level in zip(("x", "y", "xy", "z"), levels, strict=True):
        found = find(finder, asked(text), VECTORS)
        assert [key for key, result in found.items() if result.matched] == [f"c:{level}"]


def test_a_request_without_text_has_no_complexity() -> None:
    rule = ComplexityRule(
        name="c",
        hard=ComplexityCandidates(candidates=("x",)),
        easy=ComplexityCandidates(candidates=("y",)),
    )
    found = find(ComplexityFinder([rule], ALL, VECTORS), asked(), VECTORS)
    assert {result.matched for result in found.values()} == {None}


def test_reasks_count_turns_from_the_newest() -> None:
    rules = [
        ReaskRule(name="once"),
        ReaskRule(name="twice", lookback_turns=2),
        ReaskRule(name="thrice", lookback_turns=3),
    ]

    def names(*users: str) -> list[str]:
        turns = [turn for user in users[:-1] for turn in (user, "z")] + [users[-1]]
        found = find(ReaskFinder(rules), asked(*turns), VECTORS)
        return [name for name, result in found.items() if result.matched]

    assert names("x") == []
    assert names("x", "y") == []
    assert names("y", "x", "nearly x") == ["once"]
    assert names("x", "x", "nearly x") == ["twice"]  # the farthest of those that match
    assert names("x", "y", "x") == []
