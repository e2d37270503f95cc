"""Makes the learned signals of a recipe: reads its rules' texts once, and finds their heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flaxen.learned_signals.classified import (
    ComplexityHeadFinder,
    DomainFinder,
    FactCheckFinder,
    FeedbackFinder,
)
from flaxen.learned_signals.encoder import Encoder
from flaxen.learned_signals.finder import LearnedFinder
from flaxen.learned_signals.fingerprint import ANCHORS, check_encoder
from flaxen.learned_signals.guarding import ClassifierFinder, JailbreakFinder, SafetyFinder
from flaxen.learned_signals.head import Head, HeadStack
from flaxen.learned_signals.learned_signals import LearnedSignals
from flaxen.learned_signals.pii import PiiFinder
from flaxen.learned_signals.reask import ReaskFinder
from flaxen.learned_signals.similar import (
    ComplexityFinder,
    EmbeddingFinder,
    PreferenceFinder,
    texts_of,
)
from flaxen.router_config.signal_settings import ModelCatalog

Rules = Mapping[str, Sequence[Any]]
_SIMILAR = ("embeddings", "preferences", "complexity")


async def learned_signals(
    encoder: Encoder,
    rules: Rules,
    settings: ModelCatalog,
    heads: Mapping[str, Head],
    *,
    timeout_s: float = 5.0,
) -> LearnedSignals:
    """The learned signals of a recipe.

    Args:
      encoder: which reads the texts of rules now, and those of requests later.
      rules: by the names of their collections; free kinds may be among them. Those that no
        decision reads need heads for nothing.
      settings: `global.model_catalog`.
      heads: by their tasks; those of the task `classifier` by any other name.
      timeout_s: after which a signal is unknown.

    Raises:
      ValueError: a rule needs a head that is not there or has other labels, a head is of another
        encoder, or nothing here finds signals of this kind.
    """
    anchors = await encoder.pooled(ANCHORS)
    for name, head in heads.items():
        check_encoder(head.anchors, anchors, name)
    texts = sorted(set(_texts(rules)))
    rows = await encoder.pooled(texts)
    vectors = dict(zip(texts, rows, strict=True)) if texts else {}
    finders = _finders(rules, settings, heads, vectors)
    return LearnedSignals(encoder, finders, HeadStack(heads), timeout_s=timeout_s)


def _texts(rules: Rules) -> Iterable[str]:
    for collection in _SIMILAR:
        yield from texts_of(rules.get(collection, ()))
    for rule in rules.get("jailbreak", ()):
        yield from (*rule.jailbreak_patterns, *rule.benign_patterns)


def _finders(
    rules: Rules, settings: ModelCatalog, heads: Mapping[str, Head], vectors: Mapping[str, Any]
) -> dict[str, LearnedFinder]:
    modules, similarity = settings.modules, settings.embeddings.semantic.embedding_config
    shared = similarity.prototype_scoring
    found: dict[str, LearnedFinder] = {}
    if some := rules.get("embeddings"):
        found["embedding"] = EmbeddingFinder(some, similarity, vectors)
    if some := rules.get("reasks"):
        found["reask"] = ReaskFinder(some)
    if some := rules.get("preferences"):
        scoring = modules.classifier.preference.prototype_scoring or shared
        found["preference"] = PreferenceFinder(some, scoring, vectors)
    if some := rules.get("complexity"):
        scoring = modules.complexity.prototype_scoring or shared
        found["complexity"] = (
            ComplexityHeadFinder(some, heads["complexity"])
            if "complexity" in heads
            else ComplexityFinder(some, scoring, vectors)
        )
    if some := rules.get("domains"):
        head = _head(heads, "domain", ())
        found["domain"] = DomainFinder(some, head, modules.classifier.domain.threshold)
    if some := rules.get("fact_check"):
        head = _head(heads, "fact_check", ("needs_fact_check",))
        threshold = modules.hallucination_mitigation.fact_check.threshold
        found["fact_check"] = FactCheckFinder(some, head, threshold)
    if some := rules.get("user_feedbacks"):
        head = _head(heads, "user_feedback", [rule.name for rule in some])
        found["user_feedback"] = FeedbackFinder(some, head, modules.feedback_detector.threshold)
    if some := rules.get("pii"):
        found["pii"] = PiiFinder(some, heads.get("pii"))
    return found | _guards(rules, settings, heads, vectors)


def _guards(
    rules: Rules, settings: ModelCatalog, heads: Mapping[str, Head], vectors: Mapping[str, Any]
) -> dict[str, LearnedFinder]:
    found: dict[str, LearnedFinder] = {}
    if some := rules.get("jailbreak"):
        positive = settings.modules.prompt_guard.positive_labels
        asks = any(rule.method != "contrastive" for rule in some)
        head = _head(heads, "jailbreak", positive) if asks else None
        found["jailbreak"] = JailbreakFinder(some, head, positive, vectors)
    if some := rules.get("safety"):
        if any(rule.hazard is not None for rule in some):
            raise ValueError(
                "the hazard of a safety signal is not found here: write a classifier with its "
                "categories, and a condition on that beside the safety signal"
            )
        unsafe = [label for rule in some for label in rule.unsafe_labels]
        found["safety"] = SafetyFinder(some, _head(heads, "safety", unsafe))
    if some := rules.get("classifiers"):
        for rule in some:
            if rule.type != "local":
                raise ValueError(
                    f"the classifier {rule.name} has the type {rule.type}, and only local heads "
                    "are found here: train one with flaxen route train classifier, type: local"
                )
        names = {rule.name: _classifier(heads, rule.name, rule.labels) for rule in some}
        found["classifier"] = ClassifierFinder(some, heads, names)
    if rules.get("kb"):
        raise ValueError(
            "signals of knowledge bases are not found here: write an embedding rule whose "
            "candidates are the texts of the label"
        )
    return found


def _head(heads: Mapping[str, Head], name: str, labels: Sequence[str]) -> Head:
    if name not in heads:
        raise ValueError(
            f"signals of the kind {name} need a head: train one with flaxen route train {name}"
        )
    missing = [label for label in labels if label not in heads[name].labels]
    if missing:
        raise ValueError(
            f"the head {name} has no label {missing[0]!r}: it has {', '.join(heads[name].labels)}"
        )
    return heads[name]


def _classifier(heads: Mapping[str, Head], rule: str, labels: Sequence[str]) -> str:
    """The name of the head of a rule: the one called as it, else one with its labels."""
    for name, head in heads.items():
        if head.task == "classifier" and (name == rule or set(labels) <= set(head.labels)):
            _head(heads, name, labels)
            return name
    raise ValueError(
        f"{rule} needs a head with the labels {', '.join(labels)}: train one with flaxen route "
        "train classifier"
    )
