"""Signals of harm: attacks on the prompt, unsafe content, own classifiers. The worst piece, or for
own classifiers the worst window, of all texts that a rule reads counts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np

from flaxen.learned_signals.finder import Read
from flaxen.learned_signals.head import Head
from flaxen.learned_signals.reading import Reading
from flaxen.learned_signals.windows import Vectors
from flaxen.router.request import RoutedRequest
from flaxen.router.signals.found import NOT_MATCHED, Found, unknown
from flaxen.router.signals.guards import JailbreakRule, SafetyRule
from flaxen.router.signals.heads import ClassifierRule

_CONTRASTIVE = 0.1  # the threshold of method contrastive where a rule gives none


def texts_read(request: RoutedRequest, include_history: bool) -> list[str]:
    """The texts in which harm is looked for, each once: the current one, or with the history every
    message's, results of tools as well."""
    texts = [request.evaluation_text]
    if include_history:
        texts += [message.text for message in request.messages]
    return list(dict.fromkeys(text for text in texts if text))


async def read_all(texts: Sequence[str], read: Read) -> list[Reading]:
    """Reads texts at once."""
    return list(await asyncio.gather(*map(read, texts)))


async def harm(readings: Sequence[Reading], name: str) -> Vectors:
    """What a head of harm says of the suspect pieces of all texts, [pieces, labels]."""
    return np.concatenate(await asyncio.gather(*(each.of_pieces(name) for each in readings)))


class JailbreakFinder:
    """Jailbreak rules: the head's probability of an attack, the similarity to attacks less that to
    harmless texts, or the surer of both.

    Args:
      head: None if no rule asks for it.
      positive: the labels of the head that are attacks.
      patterns: the vectors of the rules' texts.
    """

    def __init__(
        self,
        rules: Sequence[JailbreakRule],
        head: Head | None,
        positive: Sequence[str],
        patterns: Mapping[str, Vectors],
    ) -> None:
        self._rules = rules
        self._rows = [] if head is None else [head.labels.index(label) for label in positive]
        self._patterns = {
            rule.name: tuple(
                np.stack([patterns[text] for text in texts]) if texts else None
                for texts in (rule.jailbreak_patterns, rule.benign_patterns)
            )
            for rule in rules
        }

    async def find(self, request: RoutedRequest, read: Read) -> Mapping[str, Found]:
        return {rule.name: await self._one(rule, request, read) for rule in self._rules}

    async def _one(self, rule: JailbreakRule, request: RoutedRequest, read: Read) -> Found:
        if rule.direction == "response":
            return unknown("the rule reads the answer, which is not there yet")
        readings = await read_all(texts_read(request, rule.include_history), read)
        if not readings:
            return NOT_MATCHED
        found = []
        if rule.method != "contrastive":
            shares = (await harm(readings, "jailbreak"))[:, self._rows].sum(axis=1)
            found.append((float(shares.max(initial=0.0)), rule.threshold))
        if rule.method in ("contrastive", "hybrid"):
            threshold = rule.threshold if rule.method == "contrastive" else 0.0
            margin = max(self._margin(rule.name, each.pooled) for each in readings)
            found.append((margin, threshold or _CONTRASTIVE))
        value, threshold = max(found, key=lambda one: one[0] - one[1])
        return Found(
            matched=value >= threshold,
            confidence=min(max(value, 0.0), 1.0),
            value=value,
            reason=f"{value:.2f} of {threshold:g}",
        )

    def _margin(self, name: str, vector: Vectors) -> float:
        attacks, harmless = (
            -1.0 if rows is None else float((rows @ vector).max()) for rows in self._patterns[name]
        )
        return attacks - harmless


class SafetyFinder:
    """Safety rules, by the head `safety`: the probabilities of a rule's unsafe labels add up."""

    def __init__(self, rules: Sequence[SafetyRule], head: Head) -> None:
        self._rows = {
            rule: [head.labels.index(label) for label in rule.unsafe_labels] for rule in rules
        }

    async def find(self, request: RoutedRequest, read: Read) -> Mapping[str, Found]:
        readings = await read_all(texts_read(request, False), read)
        shares = await harm(readings, "safety") if readings else None
        found = {}
        for rule, rows in self._rows.items():
            risk = 0.0
            if shares is not None:
                risk = float(shares[:, rows].sum(axis=1).max(initial=0.0))
            found[rule.name] = Found(
                matched=risk >= rule.threshold,
                confidence=risk,
                value=risk,
                reason=f"unsafe by {risk:.2f}",
            )
        return found


class ClassifierFinder:
    """Own classifiers: a label matches from the head's threshold for it on.

    Args:
      names: of the head of each rule.
    """

    def __init__(
        self,
        rules: Sequence[ClassifierRule],
        heads: Mapping[str, Head],
        names: Mapping[str, str],
    ) -> None:
        self._rules, self._heads, self._names = rules, heads, names

    async def find(self, request: RoutedRequest, read: Read) -> Mapping[str, Found]:
        readings = await read_all(texts_read(request, False), read)
        found: dict[str, Found] = {}
        for rule in self._rules:
            name = self._names[rule.name]
            head = self._heads[name]
            for label in rule.labels:
                key, row = f"{rule.name}:{label}", head.labels.index(label)
                if not readings:
                    found[key] = NOT_MATCHED
                    continue
                rows = [each.probabilities(name)[:, row] for each in readings]
                share = float(np.concatenate(rows).max())
                found[key] = Found(
                    matched=share >= head.thresholds.get(label, 0.5),
                    confidence=share,
                    value=share,
                    reason=f"the head says {label} by {share:.2f}",
                )
        return found
