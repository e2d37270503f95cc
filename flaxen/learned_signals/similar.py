"""Signals by similarity: embeddings, preferences, complexity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flaxen.learned_signals.bank import DEFAULT_SCORING, Bank, make_bank
from flaxen.learned_signals.finder import Read
from flaxen.learned_signals.windows import Vectors
from flaxen.router.request import RoutedRequest
from flaxen.router.signals.complexity import LEVELS, ComplexityRule
from flaxen.router.signals.embedded import EmbeddingRule, PreferenceRule, PrototypeScoring
from flaxen.router.signals.found import NOT_MATCHED, Found, unknown
from flaxen.router_config.signal_settings import EmbeddingSettings

VectorOf = Mapping[str, Vectors]  # of each text of the rules
_DEFAULT_THRESHOLD = 0.1  # of complexity


def texts_of(rules: Sequence[EmbeddingRule | PreferenceRule | ComplexityRule]) -> list[str]:
    """The texts that rules compare with."""
    found: list[str] = []
    for rule in rules:
        if isinstance(rule, EmbeddingRule):
            found += [*rule.candidates, *rule.negative_candidates]
        elif isinstance(rule, PreferenceRule):
            found += _examples(rule)
        else:
            found += [*rule.hard.candidates, *rule.easy.candidates]
    return found


class EmbeddingFinder:
    """Embedding rules: those above their thresholds, of which the best `top_k` stay.

    Args:
      vectors: of all texts of the rules.
    """

    def __init__(
        self, rules: Sequence[EmbeddingRule], settings: EmbeddingSettings, vectors: VectorOf
    ) -> None:
        self._rules, self._settings = rules, settings
        self._banks: dict[str, tuple[Bank, Bank | None]] = {}
        for rule in rules:
            if _reads_text(rule):
                scoring = rule.prototype_scoring or settings.prototype_scoring or DEFAULT_SCORING
                how = (scoring, rule.aggregation_method)
                negatives = rule.negative_candidates
                self._banks[rule.name] = (
                    _bank(rule.candidates, vectors, *how),
                    _bank(negatives, vectors, *how) if negatives else None,
                )

    async def find(self, request: RoutedRequest, read: Read) -> Mapping[str, Found]:
        found = {
            rule.name: _of_other_modality(rule, request)
            for rule in self._rules
            if rule.name not in self._banks
        }
        text = request.evaluation_text
        if not text:
            return found | dict.fromkeys(self._banks, NOT_MATCHED)
        vector = (await read(text)).pooled
        scores = {name: _difference(banks, vector) for name, banks in self._banks.items()}
        kept = self._kept(scores)
        return found | {
            name: Found(
                matched=name in kept,
                confidence=_share(score),
                value=score,
                reason=f"the similarity is {score:.3f}",
            )
            for name, score in scores.items()
        }

    def _kept(self, scores: Mapping[str, float]) -> set[str]:
        """The rules that match: above their threshold, or, where none is and that is allowed,
        above the one of all; of these the best."""
        thresholds = {rule.name: rule.threshold for rule in self._rules}
        hard = [name for name, score in scores.items() if score >= thresholds[name]]
        if not hard and self._settings.enable_soft_matching:
            hard = [n for n, s in scores.items() if s >= self._settings.min_score_threshold]
        hard.sort(key=lambda name: (-scores[name], name))
        return set(hard[: self._settings.top_k or None])


class PreferenceFinder:
    """Preferences: the nearest one by its description and examples, if it is near enough."""

    def __init__(
        self,
        rules: Sequence[PreferenceRule],
        scoring: PrototypeScoring | None,
        vectors: VectorOf,
    ) -> None:
        self._rules = rules
        self._scoring = scoring or DEFAULT_SCORING
        self._banks = [_bank(_examples(rule), vectors, self._scoring) for rule in rules]

    async def find(self, request: RoutedRequest, read: Read) -> Mapping[str, Found]:
        text = request.evaluation_text
        if not text:
            return {rule.name: NOT_MATCHED for rule in self._rules}
        vector = (await read(text)).pooled
        scores = [bank.score(vector) for bank in self._banks]
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        best = order[0]
        ahead = scores[best] - scores[order[1]] if len(order) > 1 else 2.0
        is_near = scores[best] >= self._rules[best].threshold or not self._rules[best].threshold
        is_near &= ahead >= self._scoring.margin_threshold
        return {
            rule.name: Found(
                matched=is_near and index == best,
                confidence=_share(score),
                value=score,
                reason=f"the similarity is {score:.3f}",
            )
            for index, (rule, score) in enumerate(zip(self._rules, scores, strict=True))
        }


@dataclass(frozen=True, kw_only=True)
class _Bounds:
    """Between which margins a request is of medium complexity."""

    easy_below: float
    hard_above: float
    is_of_ease: bool = False  # whether the margin grows with ease

    def level(self, margin: float) -> str:
        if self.is_of_ease:
            return _Bounds(easy_below=-self.hard_above, hard_above=-self.easy_below).level(-margin)
        if margin > self.hard_above:
            return "hard"
        return "easy" if margin < self.easy_below else "medium"


class ComplexityFinder:
    """Complexity: the similarity to hard texts less that to easy ones, in three levels."""

    def __init__(
        self,
        rules: Sequence[ComplexityRule],
        scoring: PrototypeScoring | None,
        vectors: VectorOf,
    ) -> None:
        self._rules = rules
        self._banks = {}
        for rule in rules:
            how = rule.prototype_scoring or scoring or DEFAULT_SCORING
            sides = (rule.hard.candidates, rule.easy.candidates)
            if all(sides):
                hard, easy = (_bank(texts, vectors, how) for texts in sides)
                self._banks[rule.name] = (hard, easy)

    async def find(self, request: RoutedRequest, read: Read) -> Mapping[str, Found]:
        text = request.evaluation_text
        found: dict[str, Found] = {}
        for rule in self._rules:
            keys = [f"{rule.name}:{level}" for level in LEVELS]
            if rule.name not in self._banks:
                found |= dict.fromkeys(keys, unknown("the rule has images on one side only"))
            elif not text:
                found |= dict.fromkeys(keys, unknown("the request has no text"))
            else:
                margin = _difference(self._banks[rule.name], (await read(text)).pooled)
                level = bounds_of(rule).level(margin)
                for key, each in zip(keys, LEVELS, strict=True):
                    found[key] = Found(
                        matched=each == level,
                        confidence=min(abs(margin), 1.0),
                        value=margin,
                        reason=f"the margin is {margin:+.3f}: {level}",
                    )
        return found


def bounds_of(rule: ComplexityRule) -> _Bounds:
    """The bounds of a rule, however it gives them."""
    if rule.hard_above is not None and rule.easy_below is not None:
        return _Bounds(easy_below=rule.easy_below, hard_above=rule.hard_above)
    if rule.easy_above is not None and rule.hard_below is not None:
        return _Bounds(easy_below=rule.hard_below, hard_above=rule.easy_above, is_of_ease=True)
    bound = _DEFAULT_THRESHOLD if rule.threshold is None else rule.threshold
    return _Bounds(easy_below=-bound, hard_above=bound)


def _bank(
    texts: Sequence[str], vectors: VectorOf, scoring: PrototypeScoring, aggregation: str = "max"
) -> Bank:
    return make_bank(texts, np.stack([vectors[text] for text in texts]), scoring, aggregation)


def _difference(banks: tuple[Bank, Bank | None], vector: Vectors) -> float:
    positive, negative = banks
    return positive.score(vector) - (negative.score(vector) if negative is not None else 0.0)


def _share(score: float) -> float:
    return min(max(score, 0.0), 1.0)


def _examples(rule: PreferenceRule) -> list[str]:
    return [*([rule.description] if rule.description.strip() else []), *rule.examples]


def _reads_text(rule: EmbeddingRule) -> bool:
    return rule.query_modality == "text" and bool(rule.candidates)


def _of_other_modality(rule: EmbeddingRule, request: RoutedRequest) -> Found:
    """A rule about images or sounds: false without one, and unknown with one."""
    modality = "audio" if rule.query_modality == "audio" else "image"
    if modality not in request.modalities:
        return NOT_MATCHED
    return unknown(f"the encoder reads no {modality}: write the rule about texts")
