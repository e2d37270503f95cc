"""Context: bands of tokens, counted by a tokenizer or estimated from bytes."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.router.request import Message, Tool, ToolCall
from flaxen.router.signals.context import num_tokens, read_count
from flaxen.router.signals.settings import SignalSettings
from tests.router.signals.rules import finder, of, with_messages


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8001", 8_001), ("64K", 64_000), ("1.5m", 1_500_000), (" 2k ", 2_000), ("1e3", 1_000)],
)
def test_counts_of_tokens(text: str, expected: int) -> None:
    assert read_count(text, "min_tokens") == expected


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, "give min_tokens, max_tokens or both"),
        ({"min_tokens": "many"}, "min_tokens 'many' is not a number of tokens like 8001, 64K"),
        ({"max_tokens": "-1"}, "max_tokens '-1' is not a number"),
        ({"max_tokens": "1e30"}, "max_tokens 1e30 is more tokens than any request has"),
        ({"min_tokens": "2K", "max_tokens": "1999"}, "min_tokens 2K is above max_tokens 1999"),
    ],
)
def test_a_band_without_requests_is_refused(rule: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        finder("context", rule)


def matches(number: int, *rules: dict[str, Any]) -> list[bool | None]:
    """Which bands a request is in whose only word counts so many tokens."""
    settings = SignalSettings(count_tokens=lambda text: number - 4 if text == "word" else 0)
    return [result.matched for result in finder("context", *rules, settings=settings)(of("word"))]


def test_both_bounds_belong_to_a_band() -> None:
    bands: list[dict[str, Any]] = [
        {"max_tokens": "99"},
        {"min_tokens": "100", "max_tokens": "200"},
        {"min_tokens": "201"},
        {"min_tokens": 150, "max_tokens": " 150 "},
    ]
    assert matches(99, *bands) == [True, False, False, False]
    assert matches(100, *bands) == [False, True, False, False]
    assert matches(150, *bands) == [False, True, False, True]
    assert matches(200, *bands) == [False, True, False, False]
    assert matches(201, *bands) == [False, False, True, False]


def test_tokens_are_of_all_that_the_context_must_hold() -> None:
    call = ToolCall(id="c1", name="f", arguments='{"a":1}')
    messages = [
        Message(role="user", text="é" * 10, num_images=1),
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", text="ok", tool_call_id="c1"),
    ]
    fields: dict[str, Any] = {
        "tools": (Tool(name="f", definition={"name": "f"}),),
        "response_format": {"type": "json"},
        "max_tokens": 100,
    }
    request = with_messages(messages, **fields)
    texts = len("user" + "assistant" + "tool") + 20 + len("ok") + 2 * len("c1")  # bytes
    structured = len('f{"a":1}') + len('{"name":"f"}') + len('{"type":"json"}')
    framing = 3 * 4 + 2 * 8 + 8_192 + 100
    assert num_tokens(request) == -(-texts // 4) + structured + framing
    # By a tokenizer for which every text is one token: 3 roles, 2 texts, 2 ids, 1 call, 2 objects.
    assert num_tokens(request, lambda text: 1) == 10 + framing


def test_the_reason_says_how_tokens_were_counted() -> None:
    [estimated] = finder("context", {"min_tokens": "1"})(of("word"))
    assert (estimated.reason, estimated.value) == ("6 tokens, estimated from bytes", 6)
    settings = SignalSettings(count_tokens=len)
    [counted] = finder("context", {"min_tokens": "1"}, settings=settings)(of("word"))
    assert counted.reason == "12 tokens, by the model's tokenizer"
