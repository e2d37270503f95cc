"""Structure: counts, densities and orders in a text."""

from __future__ import annotations

import math
from typing import Any

import pytest

from flaxen.router.request import Message
from flaxen.router.signals.patterns import MAX_COUNT
from tests.router.signals.rules import finder, found, with_messages


def rule(feature: str, predicate: dict[str, float] | None = None, **source: Any) -> dict[str, Any]:
    result: dict[str, Any] = {"feature": {"type": feature, "source": source}}
    return result | ({"predicate": predicate} if predicate else {})


def value(text: str, feature: str, **source: Any) -> float | None:
    return found("structure", rule(feature, **source), text).value


@pytest.mark.parametrize(
    ("text", "expected"), [("How? Why? When?", 3), ("no", 0), ("??", 2), ("", 0)]
)
def test_matches_are_counted(text: str, expected: int) -> None:
    assert value(text, "count", type="regex", pattern=r"\?") == expected
    assert value(text, "exists", type="regex", pattern=r"\?") == (expected > 0)


def test_expressions_ignore_case_unless_told() -> None:
    assert value("AbAB", "count", type="regex", pattern="ab") == 2
    assert value("AbAB", "count", type="regex", pattern="AB", case_sensitive=True) == 1


def test_a_count_ends_and_its_density_is_of_what_was_counted() -> None:
    text = "so it is " * (2 * MAX_COUNT)
    assert value(text, "count", type="regex", pattern="it") == MAX_COUNT
    assert value(text, "density", type="regex", pattern="it") == pytest.approx(1 / 3, rel=1e-3)


def test_matches_far_apart_are_counted() -> None:
    text = f"a{'.' * 200_000}a{'.' * 40_000}a"
    assert value(text, "count", type="regex", pattern="a") == 3


def test_keywords_are_counted_as_words() -> None:
    keywords = ["first", "然后"]
    text = "First, then firstly; 先做然后再做然后 first"
    assert value(text, "count", type="keyword_set", keywords=keywords) == 4
    assert value(text, "exists", type="keyword_set", keywords=["then"]) == 1
    assert value(text, "exists", type="keyword_set", keywords=["the"]) == 0


def test_a_density_is_by_words_and_cjk_characters() -> None:
    assert value("if a then b", "density", type="keyword_set", keywords=["if"]) == 0.25
    assert value("如果a", "density", type="keyword_set", keywords=["如果"]) == pytest.approx(1 / 3)
    assert value("", "density", type="keyword_set", keywords=["if"]) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("First wash, THEN dry", 1), ("then first", 0), ("step 1 ... step 2", 1), ("first", 0)],
)
def test_a_sequence_is_in_order(text: str, expected: int) -> None:
    sequences = [["first", "then"], ["step 1", "step 2"]]
    for feature in ("sequence", "exists", "count"):
        assert value(text, feature, type="sequence", sequences=sequences) == expected


def test_bytes_are_those_of_the_current_user() -> None:
    count = rule("count", {"gte": 3}, type="text_bytes")
    messages = [Message(role="system", text="long" * 9), Message(role="user", text="né")]
    result = found("structure", count, with_messages(messages))
    assert (result.value, result.matched) == (3, True)
    assert found("structure", count, with_messages(messages[:1])).value == 0


@pytest.mark.parametrize(
    ("predicate", "matched", "distance"),
    [
        ({"gte": 2}, True, 1),
        ({"gt": 3}, False, None),
        ({"gt": 2, "lt": 9}, True, 1),
        ({"lte": 3}, True, 0),
        ({"lt": 3}, False, None),
        (None, True, math.inf),
    ],
)
def test_confidence_grows_with_the_distance_from_a_bound(
    predicate: dict[str, float] | None, matched: bool, distance: float | None
) -> None:
    result = found("structure", rule("count", predicate, type="regex", pattern="a"), "a a a")
    assert result.matched is matched
    expected = 0 if distance is None else 1 / (1 + math.exp(-4 * distance))
    assert result.confidence == pytest.approx(expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (rule("mean", type="regex", pattern="a"), "feature.type 'mean' is not known"),
        (rule("count", type="words"), "source.type 'words' is not known"),
        (rule("count", type="regex"), "needs a pattern, and has none"),
        (rule("count", type="regex", pattern="(?=a)"), "has no look-around"),
        (rule("count", type="keyword_set"), "source.keywords must have at least 1"),
        (rule("exists", type="sequence"), "needs sequences, and has none"),
        (rule("exists", type="sequence", sequences=[["a"]]), r"\['a'\] must have two or more"),
        (rule("sequence", type="regex", pattern="a"), "needs source.type sequence, got 'regex'"),
        (rule("exists", type="text_bytes"), "needs feature.type count, got 'exists'"),
        (rule("exists", {"gt": 0}, type="regex", pattern="a"), "exists takes no predicate"),
        (
            rule("count", {"gt": 1000}, type="regex", pattern="a"),
            "counted up to 1000, so the bound",
        ),
        (rule("count", {"gt": 1, "gte": 1}, type="text_bytes"), "gt and gte bound the same side"),
        (rule("count", {"gt": 2, "lt": 2}, type="text_bytes"), "gt 2, lt 2 has no number in it"),
        (rule("count", {"gt": math.inf}, type="text_bytes"), "gt must be a finite number"),
        (rule("count", type="text_bytes") | {"predicate": {}}, "a predicate needs a bound"),
    ],
)
def test_a_rule_that_fits_nothing_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        finder("structure", wrong)
