"""Heads: files, the encoder that they are of, and what their signals find."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from flaxen.learned_signals import head_file
from flaxen.learned_signals.classified import (
    ComplexityHeadFinder,
    DomainFinder,
    FactCheckFinder,
    FeedbackFinder,
)
from flaxen.learned_signals.fingerprint import check_encoder
from flaxen.learned_signals.head import Head, HeadStack
from flaxen.learned_signals.head_file import load_head, save_head
from flaxen.learned_signals.windows import unit
from flaxen.router.signals.complexity import ComplexityCandidates, ComplexityRule
from flaxen.router.signals.heads import DomainRule, FactCheckRule, UserFeedbackRule
from tests.learned_signals.made import asked, find, head, vector

RNG = np.random.default_rng(0)


def random_head(task: str, labels: int, dimensions: int = 6, **fields: object) -> Head:
    rows = RNG.normal(size=(labels, dimensions)).astype(np.float32)
    return Head(
        task=task,
        labels=tuple(f"label {i}" for i in range(labels)),
        weights=rows,
        bias=rows[:, 0],
        anchors=unit(RNG.normal(size=(4, dimensions)).astype(np.float32)),
        **fields,  # type: ignore[arg-type]
    )


def test_a_saved_head_is_the_one_that_was_saved(tmp_path: Path) -> None:
    head = random_head(
        "jailbreak",
        2,
        temperature=1.7,
        thresholds={"label 1": 0.3},
        suspicions={"label 1": 0.1},
        report={"accuracy": 0.9},
    )
    save_head(head, tmp_path / "head")
    read = load_head(tmp_path / "head")
    for field in dataclasses.fields(Head):
        one, other = getattr(head, field.name), getattr(read, field.name)
        if field.name == "anchors":  # kept in half precision: below 1, its steps are under 1e-3
            np.testing.assert_allclose(one, other, atol=1e-3)
        elif isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other
    assert [path.name for path in tmp_path.iterdir()] == ["head"]


def test_a_head_of_harm_from_before_it_read_sentences_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = tuple(name for name in head_file._FIELDS if name != "suspicions")
    monkeypatch.setattr(head_file, "_FIELDS", fields)
    save_head(random_head("safety", 2), tmp_path / "old")
    save_head(random_head("domain", 2), tmp_path / "domain")
    assert load_head(tmp_path / "domain").suspicions == {}
    with pytest.raises(ValueError, match="again with flaxen route train safety"):
        load_head(tmp_path / "old")


def test_what_is_no_head_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("{}")
    with pytest.raises(ValueError, match="is no head"):
        load_head(tmp_path / "text")
    with pytest.raises(FileNotFoundError, match="flaxen route train"):
        load_head(tmp_path / "nothing")
    with pytest.raises(ValueError, match="two labels"):
        random_head("domain", 1)
    with pytest.raises(ValueError, match="task 'topic' is unknown"):
        random_head("topic", 2)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"task": "domain", "labels": 3}',
        '{"task": ["domain"], "labels": ["a", "b"]}',
        '{"task": "domain", "labels": ["a", "b", "c"]}',
        '{"task": "domain", "labels": ["a", "b"], "more": 1}',
        '{"task": "domain", "labels": ["a", "b"], "temperature": "1"}',
        '{"task": "domain", "labels": ["a", "b"], "thresholds": ["a"]}',
        '{"task": "domain", "labels": ["a", "b"], "thresholds": {"a": "high"}}',
    ],
)
def test_a_head_whose_description_was_edited_is_refused(tmp_path: Path, text: str) -> None:
    head, path = random_head("domain", 2), tmp_path / "edited"
    tensors = {name: getattr(head, name) for name in ("weights", "bias", "anchors")}
    path.write_bytes(save(tensors, {head_file._FORMAT: text}))
    with pytest.raises(ValueError, match=r"edited was changed .* again with flaxen route train"):
        load_head(path)


def test_a_head_is_of_one_encoder() -> None:
    anchors = unit(RNG.normal(size=(4, 64)).astype(np.float32))
    nearly = unit(anchors + RNG.normal(size=(4, 64)).astype(np.float32) * 0.01)
    check_encoder(anchors, nearly, "domain")
    other = unit(RNG.normal(size=(4, 64)).astype(np.float32))
    with pytest.raises(ValueError, match="head domain was fitted on another encoder"):
        check_encoder(anchors, other, "domain")
    with pytest.raises(ValueError, match="64 dimensions, and this one has 32"):
        check_encoder(anchors, other[:, :32], "domain")


def test_all_heads_in_one_product_are_each_alone() -> None:
    heads = {"a": random_head("domain", 5), "b": random_head("pii", 3, activation="sigmoid")}
    rows = RNG.normal(size=(4, 6)).astype(np.float32)
    logits = HeadStack(heads).logits(rows)
    for name, each in heads.items():
        np.testing.assert_allclose(each.probabilities(logits[name]), each(rows), rtol=1e-5)
        alone = np.stack([HeadStack(heads).logits(row[None])[name][0] for row in rows])
        np.testing.assert_array_equal(alone, logits[name])
    np.testing.assert_allclose(heads["a"](rows).sum(axis=1), 1, rtol=1e-5)


def domains(rules: list[DomainRule], *numbers: float) -> list[str]:
    topics = head("domain", ("health", "law", "math"))
    found = find(
        DomainFinder(rules, topics, 0.5), asked("t"), {"t": vector(*numbers)}, {"domain": topics}
    )
    return [name for name, result in found.items() if result.matched]


def test_domains_are_labels_by_category_or_by_name() -> None:
    rules = [
        DomainRule(name="medicine", mmlu_categories=("Health",)),
        DomainRule(name="law"),
        DomainRule(name="care", mmlu_categories=("health", "law")),
    ]
    assert domains(rules, 1, 0, 0) == ["medicine", "care"]
    assert domains(rules, 0, 1, 0) == ["law", "care"]
    assert domains(rules, 0, 0, 1) == []
    assert domains(rules, 1, 1, 1) == []  # nothing is probable enough


def test_facts_are_checked_from_the_threshold_on() -> None:
    facts = head("fact_check", ("no_fact_check_needed", "needs_fact_check"))
    rules = [FactCheckRule(name=label) for label in facts.labels]

    def name(text: str, threshold: float) -> list[str]:
        vectors = {"fact": vector(0.4, 0.6), "poem": vector(1, 0)}
        finder = FactCheckFinder(rules, facts, threshold)
        found = find(finder, asked(text) if text else asked(), vectors, {"fact_check": facts})
        return [name for name, result in found.items() if result.matched]

    assert name("fact", 0.6) == ["needs_fact_check"]
    assert name("fact", 0.99) == ["no_fact_check_needed"]
    assert name("poem", 0.6) == ["no_fact_check_needed"]
    assert name("", 0.6) == ["no_fact_check_needed"]


def test_feedback_is_of_an_answer() -> None:
    labels = ("satisfied", "wrong_answer", "want_different", "need_clarification")
    feedback = head("user_feedback", labels)
    rules = [UserFeedbackRule(name=label) for label in labels]

    def names(*turns: str) -> list[str]:
        vectors = {"wrong": vector(0, 1, 0, 0), "unclear": vector(0, 1, 1, 0)}
        finder = FeedbackFinder(rules, feedback, 0.7)
        found = find(finder, asked(*turns), vectors, {"user_feedback": feedback})
        return [name for name, result in found.items() if result.matched]

    assert names("wrong") == []
    assert names("q", "answer", "wrong") == ["wrong_answer"]
    assert names("q", "answer", "unclear") == ["satisfied"]


def test_a_head_of_complexity_says_the_level() -> None:
    levels = head("complexity", ("easy", "medium", "hard"))
    texts = ComplexityCandidates(candidates=("x",))
    rule = ComplexityRule(name="c", hard=texts, easy=texts)
    found = find(
        ComplexityHeadFinder([rule], levels),
        asked("t"),
        {"t": vector(0, 0, 1)},
        {"complexity": levels},
    )
    assert [name for name, result in found.items() if result.matched] == ["c:hard"]
    assert found["c:easy"].value == pytest.approx(1, abs=0.01)
