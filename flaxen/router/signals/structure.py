"""Structure: counts of what a text has, and the order of words in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flaxen.router.request import RoutedRequest
from flaxen.router.signals.checks import NamedRule, check_choice, check_texts
from flaxen.router.signals.found import Found
from flaxen.router.signals.patterns import MAX_COUNT, Pattern, as_bytes, ignoring_case
from flaxen.router.signals.predicate import Predicate
from flaxen.router.signals.settings import Finder, SignalSettings
from flaxen.router.signals.words import Literal, num_units

FEATURES = ("exists", "count", "density", "sequence")
SOURCES = ("regex", "keyword_set", "sequence", "text_bytes")


@dataclass(frozen=True, kw_only=True)
class StructureSource:
    """What is counted: the matches of a pattern, the keywords as words, whether markers follow each
    other (sequence), or the bytes of the user's text.

    Raises:
      ValueError: the type is unknown, or lacks its field, or the pattern is no regular expression.
    """

    type: str
    pattern: str = ""
    keywords: tuple[str, ...] = ()
    case_sensitive: bool = False
    sequences: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        check_choice(self.type, "source.type", SOURCES)
        if self.type == "regex":
            if not self.pattern.strip():
                raise ValueError("a source of type regex needs a pattern, and has none")
            Pattern(ignoring_case(self.pattern, self.case_sensitive))
        elif self.type == "keyword_set":
            check_texts(self.keywords, "source.keywords")
        elif self.type == "sequence":
            if not self.sequences:
                raise ValueError("a source of type sequence needs sequences, and has none")
            for sequence in self.sequences:
                if len(sequence) < 2 or not all(sequence):
                    raise ValueError(
                        f"the sequence {list(sequence)} must have two or more texts, none of them "
                        "empty: fewer have no order"
                    )


@dataclass(frozen=True, kw_only=True)
class StructureFeature:
    """What is made of a source: whether it is there at all (exists, sequence), how often (count),
    or how often for each word (density, where a CJK character is a word).

    Raises:
      ValueError: the type is unknown, or does not fit the source.
    """

    type: str
    source: StructureSource

    def __post_init__(self) -> None:
        check_choice(self.type, "feature.type", FEATURES)
        if self.type == "sequence" and self.source.type != "sequence":
            raise ValueError(
                f"feature.type sequence needs source.type sequence, got {self.source.type!r}"
            )
        if self.source.type == "text_bytes" and self.type != "count":
            raise ValueError(f"source.type text_bytes needs feature.type count, got {self.type!r}")


@dataclass(frozen=True, kw_only=True)
class StructureRule(NamedRule):
    """Whether the number that a feature gives is in a range; without one, above 0.

    Raises:
      ValueError: the predicate does not fit the feature.
    """

    feature: StructureFeature
    predicate: Predicate | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.predicate is None:
            return
        if self.feature.type == "exists":
            raise ValueError(
                "feature.type exists takes no predicate: it is 0 or 1. Use count for a range"
            )
        if self.feature.type == "count" and self.feature.source.type == "regex":
            bounds = [bound for _, bound in self.predicate.bounds if bound >= MAX_COUNT]
            if bounds:
                raise ValueError(
                    f"the matches of a regular expression are counted up to {MAX_COUNT}, so the "
                    f"bound {bounds[0]:g} can't be compared with: give one below"
                )


def find_structures(rules: Sequence[StructureRule], settings: SignalSettings) -> Finder:
    """The finder of a list of rules, with their patterns compiled."""
    measures = [_measure(rule.feature) for rule in rules]

    def find(request: RoutedRequest) -> list[Found]:
        return [
            _found(rule.predicate, measure(request))
            for rule, measure in zip(rules, measures, strict=True)
        ]

    return find


def _found(predicate: Predicate | None, value: float) -> Found:
    matched = predicate.holds(value) if predicate else value > 0
    return Found(
        matched=matched,
        confidence=_confidence(predicate, value) if matched else 0.0,
        value=value,
        reason=f"value {value:g}",
    )


def _confidence(predicate: Predicate | None, value: float) -> float:
    """Grows with the distance from the first bound, from 0.5 to 1."""
    if predicate is None:
        return 1.0
    _, bound = predicate.bounds[0]
    return 1 / (1 + math.exp(-4 * min(abs(value - bound), 100.0)))


def _measure(feature: StructureFeature) -> Callable[[RoutedRequest], float]:
    """The function from a request to the number of a feature."""
    source = feature.source
    if source.type == "text_bytes":
        return lambda request: len(as_bytes(request.current_user))
    if source.type == "regex":
        pattern = Pattern(ignoring_case(source.pattern, source.case_sensitive))
        if feature.type == "exists":
            return lambda request: float(pattern.is_in(request.evaluation_text))
        return lambda request: _of_pattern(pattern, request.evaluation_text, feature.type)
    count = _keyword_count(source) if source.type == "keyword_set" else _sequence(source)

    def measure(request: RoutedRequest) -> float:
        number = count(request.evaluation_text)
        if feature.type == "density":
            return number / (num_units(request.evaluation_text) or 1)
        return number if feature.type == "count" else float(number > 0)

    return measure


def _of_pattern(pattern: Pattern, text: str, feature: str) -> float:
    number, num_read = pattern.count(text)
    # A count that ended early is divided by the words that it was counted in.
    return number / (num_units(text[:num_read]) or 1) if feature == "density" else number


def _keyword_count(source: StructureSource) -> Callable[[str], int]:
    words = [Literal(word, is_case_sensitive=source.case_sensitive) for word in source.keywords]

    def count(text: str) -> int:
        folded = _fold(text, source)
        return sum(1 for word in words for _ in word.occurrences(folded))

    return count


def _sequence(source: StructureSource) -> Callable[[str], int]:
    sequences = [[_fold(marker, source) for marker in sequence] for sequence in source.sequences]

    def is_there(text: str) -> int:
        folded = _fold(text, source)
        return int(any(_follow(folded, sequence) for sequence in sequences))

    return is_there


def _fold(text: str, source: StructureSource) -> str:
    return text if source.case_sensitive else text.lower()


def _follow(text: str, markers: Sequence[str]) -> bool:
    """Whether texts stand in a text one behind the other."""
    start = 0
    for marker in markers:
        found = text.find(marker, start)
        if found < 0:
            return False
        start = found + len(marker)
    return True
