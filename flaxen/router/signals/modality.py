"""Modalities: what a request brings (text, images, audio, video), and which it wants back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flaxen.router.request import RoutedRequest
from flaxen.router.signals.checks import NamedRule, check_choice
from flaxen.router.signals.found import Found, unknown
from flaxen.router.signals.settings import Finder, ModalityDetector, SignalSettings

OUTPUTS = ("AR", "DIFFUSION", "BOTH")  # a text, an image, both
INPUTS = ("text", "image", "audio", "video")


@dataclass(frozen=True, kw_only=True)
class InputModalityRule(NamedRule):
    """Whether some message brings a modality."""

    modality: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.modality, "modality", INPUTS)


@dataclass(frozen=True, kw_only=True)
class ModalityRule(NamedRule):
    """Whether the text asks for what the rule's name says: AR (a text), DIFFUSION (an image) or
    BOTH."""

    def __post_init__(self) -> None:
        check_choice(self.name, "the modality", OUTPUTS)


def find_input_modality(rule: InputModalityRule, request: RoutedRequest) -> Found:
    """Whether a request brings the modality of a rule."""
    return Found(
        matched=rule.modality in request.modalities,
        reason=f"brings {', '.join(sorted(request.modalities)) or 'nothing'}",
    )


def find_modalities(rules: Sequence[ModalityRule], settings: SignalSettings) -> Finder:
    """The finder of a list of rules by keywords. Where a model is to find the modality it is
    unknown here."""
    detector = settings.modality

    def find(request: RoutedRequest) -> list[Found]:
        if detector.method != "keyword":
            reason = f"modality_detector.method {detector.method!r} needs a model"
            return [unknown(f"{reason}; method keyword does without")] * len(rules)
        wanted, confidence = wanted_modality(request.evaluation_text, detector)
        return [
            Found(matched=rule.name == wanted, value=confidence, reason=f"asks for {wanted}")
            for rule in rules
        ]

    return find


def wanted_modality(text: str, detector: ModalityDetector) -> tuple[str, float]:
    """The modality that a text asks for by the detector's keywords, and how sure that is."""
    if not text:
        return "AR", 1.0
    lower = text.lower()
    if not any(keyword.lower() in lower for keyword in detector.keywords):
        return "AR", 0.8 if detector.keywords else 0.5
    if any(keyword.lower() in lower for keyword in detector.both_keywords):
        return "BOTH", 0.75
    return "DIFFUSION", 0.8
