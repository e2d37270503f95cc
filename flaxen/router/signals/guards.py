"""The rules of signals that look for harm: attacks on the prompt, personal data, unsafe content.

Their functions need a model, so they are not here.
"""

from __future__ import annotations

from dataclasses import dataclass

from flaxen.router.signals.checks import (
    NamedRule,
    check_choice,
    check_range,
    check_texts,
    check_unique,
)


@dataclass(frozen=True, kw_only=True)
class JailbreakRule(NamedRule):
    """Whether the text, or with include_history the whole conversation, attacks the model's rules.

    Attributes:
      method: "" or "classifier"; "contrastive": the similarity to attacks (jailbreak_patterns)
        less that to harmless texts (benign_patterns); or "hybrid": the surer of both.
      direction: request, or response for what the model answers.
    """

    threshold: float = 0.0
    method: str = ""
    include_history: bool = False
    direction: str = "request"
    jailbreak_patterns: tuple[str, ...] = ()
    benign_patterns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.method, "method", ("", "classifier", "contrastive", "hybrid"))
        check_choice(self.direction, "direction", ("request", "response"))
        check_texts(self.benign_patterns, "benign_patterns", at_least=0)
        if self.method in ("contrastive", "hybrid"):
            check_texts(self.jailbreak_patterns, "jailbreak_patterns")
        if self.method == "contrastive":
            check_range(self.threshold, "threshold", 0, 2)
            return
        if not 0 < self.threshold <= 1:
            raise ValueError(
                f"threshold is the risk from which a text matches: above 0, up to 1, got "
                f"{self.threshold}"
            )
        if self.method != "hybrid" and (self.jailbreak_patterns or self.benign_patterns):
            raise ValueError(
                "jailbreak_patterns and benign_patterns are for the methods contrastive and "
                "hybrid: give one of them, or remove the patterns"
            )


@dataclass(frozen=True, kw_only=True)
class PiiRule(NamedRule):
    """Whether the text has personal data of a type that is not allowed."""

    threshold: float
    pii_types_allowed: tuple[str, ...] = ()
    include_history: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self.threshold, "threshold", 0, 1)
        check_texts(self.pii_types_allowed, "pii_types_allowed", at_least=0)


@dataclass(frozen=True, kw_only=True)
class Hazard:
    """Which kinds of harm an unsafe text must be of."""

    labels: tuple[str, ...]
    categories: tuple[str, ...]
    threshold: float
    model: str = ""

    def __post_init__(self) -> None:
        check_texts(self.labels, "hazard.labels", at_least=2)
        check_texts(self.categories, "hazard.categories")
        check_unique(self.labels, "hazard.labels")
        _check_subset(self.categories, self.labels, "hazard.categories")
        _check_probability(self.threshold, "hazard.threshold")


@dataclass(frozen=True, kw_only=True)
class SafetyRule(NamedRule):
    """Whether the text is unsafe: the probabilities of unsafe_labels add up to a threshold,
    and that of a hazard's category reaches its own, if there is a hazard."""

    threshold: float
    model: str = ""
    labels: tuple[str, ...] = ("safe", "unsafe")
    unsafe_labels: tuple[str, ...] = ("unsafe",)
    hazard: Hazard | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_texts(self.labels, "labels", at_least=2)
        check_texts(self.unsafe_labels, "unsafe_labels")
        check_unique(self.labels, "labels")
        _check_subset(self.unsafe_labels, self.labels, "unsafe_labels")
        if set(self.unsafe_labels) == set(self.labels):
            raise ValueError("unsafe_labels has all labels, so every text would be unsafe")
        _check_probability(self.threshold, "threshold")


@dataclass(frozen=True, kw_only=True)
class HallucinationRule(NamedRule):
    """How answers are checked against what the request brought. No condition reads it."""

    use_nli: bool = False


def _check_probability(value: float, what: str) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{what} must be above 0 and at most 1, got {value}")


def _check_subset(some: tuple[str, ...], labels: tuple[str, ...], what: str) -> None:
    unknown = [label for label in some if label not in labels]
    if unknown:
        raise ValueError(f"{what} has {unknown[0]!r}, which is none of the labels {list(labels)}")
