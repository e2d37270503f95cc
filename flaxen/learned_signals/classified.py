"""Signals of heads on a text's vector: topics, facts, feedback, complexity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from flaxen.learned_signals.finder import Read
from flaxen.learned_signals.head import Head
from flaxen.router.request import RoutedRequest
from flaxen.router.signals.complexity import LEVELS, ComplexityRule
from flaxen.router.signals.found import NOT_MATCHED, Found, unknown
from flaxen.router.signals.heads import DomainRule, FactCheckRule, UserFeedbackRule

_SURE = 0.4  # the share of the greatest entropy below which only the first topic counts


class DomainFinder:
    """Domain rules, by the head `domain`.

    Of the topics that are probable enough all match where the head is undecided, and the first
    alone where it is sure.
    """

    def __init__(self, rules: Sequence[DomainRule], head: Head, threshold: float) -> None:
        self._rules, self._head, self._threshold = rules, head, threshold
        self._labels_of = {rule.name: _labels_of(rule, head.labels) for rule in rules}

    async def find(self, request: RoutedRequest, read: Read) -> Mapping[str, Found]:
        text = request.evaluation_text
        if not text:
            return {rule.name: NOT_MATCHED for rule in self._rules}
        of_label = await _shares(text, read, self._head)
        likely = {label for label, share in of_label.items() if share >= self._threshold}
        if _entropy(list(of_label.values())) < _SURE:
            likely &= {_best(of_label)}
        found = {}
        for rule in self._rules:
            value = max((of_label[label] for label in self._labels_of[rule.name]), default=0.0)
            found[rule.name] = Found(
                matched=bool(likely & self._labels_of[rule.name]),
                confidence=value,
                value=value,
                reason=_said(of_label),
            )
        return found


class FactCheckFinder:
    """Whether facts are asked for, by the head `fact_check`; without a text they are not."""

    def __init__(self, rules: Sequence[FactCheckRule], head: Head, threshold: float) -> None:
        self._rules, self._head, self._threshold = rules, head, threshold

    async def find(self, request: RoutedRequest, read: Read) -> Mapping[str, Found]:
        text, share = request.evaluation_text, 0.0
        if text:
            share = (await _shares(text, read, self._head))["needs_fact_check"]
        name = "needs_fact_check" if share >= self._threshold else "no_fact_check_needed"
        return {
            rule.name: Found(
                matched=rule.name == name,
                value=share if rule.name == "needs_fact_check" else 1 - share,
                reason=f"needs a check of facts by {share:.2f}",
            )
            for rule in self._rules
        }


class FeedbackFinder:
    """What the user thinks of the answer before, by the head `user_feedback`. Without an answer
    there is none, and where the head is not sure the user is satisfied."""

    def __init__(self, rules: Sequence[UserFeedbackRule], head: Head, threshold: float) -> None:
        self._rules, self._head, self._threshold = rules, head, threshold

    async def find(self, request: RoutedRequest, read: Read) -> Mapping[str, Found]:
        if not request.has_assistant_reply or not request.current_user:
            return {rule.name: NOT_MATCHED for rule in self._rules}
        of_label = await _shares(request.current_user, read, self._head)
        name = _best(of_label)
        if of_label[name] < self._threshold:
            name = "satisfied"
        return {
            rule.name: Found(
                matched=rule.name == name,
                value=of_label.get(rule.name, 0.0),
                reason=_said(of_label),
            )
            for rule in self._rules
        }


class ComplexityHeadFinder:
    """Complexity by the head `complexity`, for all rules the same: their texts and bounds are for
    similarities, and do not count."""

    def __init__(self, rules: Sequence[ComplexityRule], head: Head) -> None:
        self._rules, self._head = rules, head

    async def find(self, request: RoutedRequest, read: Read) -> Mapping[str, Found]:
        text = request.evaluation_text
        keys = [f"{rule.name}:{level}" for rule in self._rules for level in LEVELS]
        if not text:
            return dict.fromkeys(keys, unknown("the request has no text"))
        of_label = await _shares(text, read, self._head)
        level = _best(of_label)
        return {
            key: Found(
                matched=key.endswith(f":{level}"),
                confidence=of_label[level],
                value=of_label.get("hard", 0.0) - of_label.get("easy", 0.0),
                reason=_said(of_label),
            )
            for key in keys
        }


def _labels_of(rule: DomainRule, labels: Sequence[str]) -> set[str]:
    """The head's topics that a rule is about: those it lists, else the one that its name is."""
    names = {name.strip().lower() for name in rule.mmlu_categories or (rule.name,)}
    return {label for label in labels if label.lower() in names}


async def _shares(text: str, read: Read, head: Head) -> dict[str, float]:
    """The probability of each label of a head of its own task."""
    [found] = (await read(text)).probabilities(head.task)
    return dict(zip(head.labels, map(float, found), strict=True))


def _best(of_label: Mapping[str, float]) -> str:
    return max(of_label, key=lambda label: of_label[label])  # the first of equals


def _entropy(shares: Sequence[float]) -> float:
    """The entropy of probabilities, as a share of the greatest that so many can have."""
    return -sum(share * math.log(share) for share in shares if share) / math.log(len(shares))


def _said(of_label: Mapping[str, float]) -> str:
    label = _best(of_label)
    return f"the head says {label} by {of_label[label]:.2f}"
