"""Events and modalities: by words, and by what messages bring."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.router.request import Message
from flaxen.router.signals.settings import ModalityDetector, SignalSettings
from tests.router.signals.rules import finder, found, of, with_messages

EVENT = {
    "event_types": ["db.down", "disk full"],
    "severities": ["Critical"],
    "action_codes": ["RB-7"],
    "temporal": True,
}


@pytest.mark.parametrize(
    ("text", "confidence"),
    [
        ("db.down: CRITICAL, run rb-7 now", 1.0),
        ("Disk full, critical", 0.75),
        ("a time-sensitive matter", 0.625),
        ("dbxdown, high, RB-77, knowing", None),
    ],
)
def test_an_event_is_surer_the_more_is_found(text: str, confidence: float | None) -> None:
    result = found("events", EVENT, text)
    assert result.matched is (confidence is not None)
    assert confidence is None or result.confidence == confidence


def test_an_event_without_urgency_asks_for_the_rest_alone() -> None:
    assert found("events", {"severities": ["low"]}, "LOW now").confidence == 1.0
    assert found("events", {"severities": ["low"]}, "urgent").matched is False
    assert found("events", EVENT, "critical RB-7").reason == "found severities, action_codes"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, "the rule asks for nothing"),
        ({"severities": ["fatal"]}, "severity 'fatal' is not known: give one of 'critical'"),
        ({"event_types": [" "]}, "event_types has a blank text"),
    ],
)
def test_an_event_that_asks_for_nothing_is_refused(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        finder("events", rule)


def test_input_modalities_are_those_of_any_message() -> None:
    request = with_messages(
        [Message(role="user", num_images=1), Message(role="user", num_audio=1, text="a")]
    )
    there = {
        modality: found("input_modality", {"modality": modality}, request).matched
        for modality in ("text", "image", "audio", "video")
    }
    assert there == {"text": True, "image": True, "audio": True, "video": False}
    assert found("input_modality", {"modality": "text"}, "").reason == "brings nothing"
    with pytest.raises(ValueError, match="modality 'smell' is not known"):
        finder("input_modality", {"modality": "smell"})


@pytest.mark.parametrize(
    ("text", "expected", "confidence"),
    [
        ("Draw a cat", "DIFFUSION", 0.8),
        ("draw a cat and EXPLAIN it", "BOTH", 0.75),
        ("explain cats", "AR", 0.8),
        ("", "AR", 1.0),
    ],
)
def test_the_wanted_modality_is_found_by_keywords(
    text: str, expected: str, confidence: float
) -> None:
    detector = ModalityDetector(method="keyword", keywords=("draw",), both_keywords=("explain",))
    names = ("AR", "DIFFUSION", "BOTH")
    find = finder(
        "modality", *({"name": name} for name in names), settings=SignalSettings(modality=detector)
    )
    results = dict(zip(names, find(of(text)), strict=True))
    assert [name for name in names if results[name].matched] == [expected]
    assert results[expected].value == confidence


def test_a_modality_that_a_model_finds_is_unknown() -> None:
    result = found("modality", {"name": "AR"}, "draw")
    assert result.matched is None
    assert "modality_detector.method 'classifier' needs a model" in result.reason
    with pytest.raises(ValueError, match="the modality 'TEXT' is not known"):
        finder("modality", {"name": "TEXT"})
