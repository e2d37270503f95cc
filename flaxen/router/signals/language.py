"""Language: which natural language the request is written in."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from flaxen.router.request import RoutedRequest
from flaxen.router.signals.checks import NamedRule, check_choice, check_range
from flaxen.router.signals.extra import load_extra
from flaxen.router.signals.found import Found
from flaxen.router.signals.settings import Finder, SignalSettings

# Without dialects and small neighbours of these, which short texts would often be taken for.
_CODES = """
    af ar az be bg bn bs ca cs cy da de el en eo es et eu fa fi fr ga gu he hi hr hu hy id is it
    ja ka kk ko la lg lt lv mk mn mr ms nl nn no pa pl pt ro ru sk sl sn so sq sr st sv sw ta te th
    tl tr uk ur vi xh yo zh zu
"""
LANGUAGES = tuple(_CODES.split())
DEFAULT_THRESHOLD = 0.3
_UNCLEAR_IS, _UNCLEAR_CONFIDENCE = "en", 0.5
_LONGEST = 2_048  # characters: of a longer text a third each of its beginning, middle and end
_loading = threading.Lock()


class Language(NamedTuple):
    """The language of a text, by its code of ISO 639-1, and how sure that is, in [0, 1]."""

    code: str
    confidence: float


@dataclass(frozen=True, kw_only=True)
class LanguageRule(NamedRule):
    """Whether the text is written in the language whose code (ISO 639-1) is the rule's name.

    Attributes:
      threshold: how sure that must be, in [0, 1]; 0 stands for 0.3. The lowest of all rules
        decides whether a language counts as found at all.
    """

    threshold: float = DEFAULT_THRESHOLD

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.name, "the language", LANGUAGES)
        check_range(self.threshold, "threshold", 0, 1)


def find_languages(rules: Sequence[LanguageRule], settings: SignalSettings) -> Finder:
    """The finder of a list of rules: the language is found once for all.

    A text that is too short or too mixed counts as English with confidence 0.5, and the reason
    says so.

    Raises:
      ValueError: the package that finds languages is not installed.
    """
    _identifier()
    thresholds = [rule.threshold or DEFAULT_THRESHOLD for rule in rules]
    least = min(thresholds, default=DEFAULT_THRESHOLD)

    def find(request: RoutedRequest) -> list[Found]:
        best = language_of(request.evaluation_text)
        language, reason = best, f"{best.code} with confidence {best.confidence:.2f}"
        if best.confidence < least:
            language = Language(_UNCLEAR_IS, _UNCLEAR_CONFIDENCE)
            reason = f"unclear, so taken for {_UNCLEAR_IS}: the likeliest was {reason}"
        return [
            Found(
                matched=rule.name == language.code and language.confidence >= threshold,
                value=language.confidence if rule.name == language.code else 0.0,
                reason=reason,
            )
            for rule, threshold in zip(rules, thresholds, strict=True)
        ]

    return find


def language_of(text: str) -> Language:
    """The likeliest language of a text. A text without letters has confidence 0."""
    if len(text) > _LONGEST:
        third = _LONGEST // 3
        middle = (len(text) - third) // 2
        text = f"{text[:third]} {text[middle : middle + third]} {text[-third:]}"
    if not any(character.isalpha() for character in text):
        return Language(_UNCLEAR_IS, 0.0)
    code, confidence = _identifier().classify(text)
    return Language(code, float(confidence))


def _identifier() -> Any:
    with _loading:
        return _load_identifier()


@lru_cache(maxsize=1)
def _load_identifier() -> Any:
    """The model, which is read once in a process: a second, and 130 MB."""
    module = load_extra("py3langid.langid", "py3langid", "languages")
    identifier = module.LanguageIdentifier.from_model_file(module.MODEL_FILE, norm_probs=True)
    identifier.set_languages(LANGUAGES)
    return identifier
