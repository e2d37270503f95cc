"""The table of kinds, and the rules of those that a model finds."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from flaxen.router.signals.kinds import KINDS, Cost
from tests.router.signals.rules import BY_COLLECTION, build

SIDE = {"candidates": ["x"]}
LEVELS = {"hard": SIDE, "easy": SIDE}
LABELS = ["a", "b"]
# The least that each rule of a learned kind must have.
LEAST: dict[str, dict[str, Any]] = {
    "embeddings": {"threshold": 0.5, "candidates": ["x"]},
    "domains": {},
    "fact_check": {"name": "needs_fact_check"},
    "user_feedbacks": {"name": "satisfied"},
    "reasks": {},
    "preferences": {"description": "x"},
    "complexity": LEVELS,
    "jailbreak": {"threshold": 0.5},
    "pii": {"threshold": 0.5},
    "kb": {"kb": "k", "target": {"kind": "label", "value": "v"}},
    "safety": {"threshold": 0.5},
    "classifiers": {"type": "local", "labels": LABELS},
    "hallucination": {},
}


def learned(collection: str, **fields: Any) -> Any:
    return build(BY_COLLECTION[collection].rule, {"name": "r", **LEAST[collection], **fields})


def test_every_kind_has_its_own_names_and_a_rule_with_them() -> None:
    assert len(BY_COLLECTION) == len(KINDS) == 23
    conditions = [kind.condition for kind in KINDS if kind.condition]
    assert len(set(conditions)) == len(conditions) == 22
    for kind in KINDS:
        fields = {field.name for field in dataclasses.fields(kind.rule)}
        assert {"name", kind.named_by, kind.labels or "name"} <= fields


def test_kinds_without_a_finder_are_learned() -> None:
    assert {kind.collection for kind in KINDS if kind.cost is Cost.LEARNED} == set(LEAST)
    for collection in LEAST:
        assert learned(collection).name


def test_previews_show_kinds_by_the_reference_s_names() -> None:
    assert {kind.collection: kind.shown_as for kind in KINDS} == {
        **{kind.collection: kind.collection for kind in KINDS},
        "classifiers": "classifier",
        "events": "event",
        "reasks": "reask",
        "role_bindings": "authz",
        "user_feedbacks": "user_feedback",
    }


@pytest.mark.parametrize(
    ("collection", "fields", "message"),
    [
        ("embeddings", {"candidates": []}, "candidates and image_candidates must have at least 1"),
        ("embeddings", {"threshold": 1.5}, "threshold must be from -1 to 1, got 1.5"),
        ("embeddings", {"aggregation_method": "sum"}, "aggregation_method 'sum' is not known"),
        ("embeddings", {"query_modality": "video"}, "query_modality 'video' is not known"),
        (
            "embeddings",
            {"prototype_scoring": {"best_weight": 2}},
            "best_weight must be from 0 to 1",
        ),
        ("fact_check", {"name": "facts"}, "the fact check 'facts' is not known"),
        ("user_feedbacks", {"name": "angry"}, "the feedback 'angry' is not known"),
        ("reasks", {"lookback_turns": 0}, "lookback_turns must be from 1 to"),
        ("preferences", {"description": ""}, "by its description and examples: give some"),
        ("complexity", {"name": "a:b"}, "may not have a colon, as RULE:LEVEL has one"),
        ("complexity", {"hard_above": 0.1}, "come in pairs: the other one is missing"),
        ("complexity", {"threshold": 0.1, "hard_above": 0.1}, "two of them contradict each other"),
        ("complexity", {"hard_above": 0.1, "easy_below": 0.2}, "hard and easy at once"),
        ("complexity", {"hard": {}}, "candidates and image_candidates must have at least 1"),
        ("jailbreak", {"threshold": 0.0}, "above 0, up to 1, got 0.0"),
        ("jailbreak", {"method": "contrastive"}, "jailbreak_patterns must have at least 1"),
        ("jailbreak", {"jailbreak_patterns": ["x"]}, "are for the methods contrastive and"),
        ("jailbreak", {"direction": "both"}, "direction 'both' is not known"),
        ("pii", {"threshold": 2.0}, "threshold must be from 0 to 1"),
        ("kb", {"match": "all"}, "match 'all' is not known"),
        ("kb", {"target": {"kind": "word", "value": "v"}}, "target.kind 'word' is not known"),
        ("safety", {"unsafe_labels": ["bad"]}, "unsafe_labels has 'bad', which is none of"),
        ("safety", {"unsafe_labels": ["safe", "unsafe"]}, "so every text would be unsafe"),
        ("safety", {"threshold": 0.0}, "threshold must be above 0 and at most 1"),
        (
            "safety",
            {"hazard": {"labels": LABELS, "categories": ["c"], "threshold": 0.5}},
            "hazard.categories has 'c'",
        ),
        ("classifiers", {"labels": ["a"]}, "labels must have at least 2, got 1"),
        ("classifiers", {"labels": ["a", "a"]}, "labels has 'a' twice"),
        ("classifiers", {"labels": ["a", "b:c"]}, "'b:c' may have neither a colon nor white space"),
        ("classifiers", {"type": "llm"}, "type llm needs instructions"),
        ("classifiers", {"model": "m"}, "a classifier of type local has no model"),
    ],
)
def test_a_rule_that_says_nothing_is_refused(
    collection: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        learned(collection, **fields)


def test_a_hybrid_of_patterns_and_classifier_has_patterns() -> None:
    patterns = {"jailbreak_patterns": ["ignore your rules"]}
    assert learned("jailbreak", method="hybrid", **patterns).threshold == 0.5
    with pytest.raises(ValueError, match="jailbreak_patterns must have at least 1"):
        learned("jailbreak", method="hybrid")


def test_differences_of_cosines_may_reach_two() -> None:
    assert learned("embeddings", threshold=1.5, negative_candidates=["y"]).threshold == 1.5
