"""What ends a text, and what must not: lengths, end of sequence, stop tokens and stop strings."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.serving import CAPITAL, END_OF_TURN, IDS, ONCE, ONE_TWO, Server, words

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_min_tokens_holds_back_every_kind_of_stop(server: Server) -> None:
    asked = {"max_tokens": 16, "return_token_ids": True}
    (short,) = server.chat(CAPITAL, **asked).choices
    assert len(short.token_ids) == 8
    (longer,) = server.chat(CAPITAL, min_tokens=12, **asked).choices
    assert len(longer.token_ids) >= 12
    assert END_OF_TURN not in longer.token_ids[:11]
    comma = words(server, ",")
    (choice,) = server.complete(
        ONE_TWO, max_tokens=9, min_tokens=4, stop_token_ids=comma, **IDS
    ).choices
    assert comma[0] not in choice.token_ids[:3]
    # The fourth token, a comma, may end it; the second may not.
    (choice,) = server.complete(ONE_TWO, max_tokens=9, min_tokens=4, stop=[","]).choices
    assert (choice.text, choice.stop_reason) == (" four, five", ",")


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_max_tokens(server: Server, field: str) -> None:
    answer = server.chat(CAPITAL, **{field: 3})
    assert answer.usage.completion_tokens == 3
    assert answer.choices[0].finish_reason == "length"


def test_completions_have_16_tokens_by_default(server: Server) -> None:
    assert server.complete(ONCE).usage.completion_tokens == 16  # OpenAI's default


def test_ignore_eos_and_skip_special_tokens(server: Server) -> None:
    asked = {"max_tokens": 16, "return_token_ids": True, "ignore_eos": True}
    (hidden,) = server.chat(CAPITAL, **asked).choices
    assert len(hidden.token_ids) == 16
    assert END_OF_TURN in hidden.token_ids
    assert hidden.finish_reason == "length"
    assert "<|im_end|>" not in hidden.message.content
    (shown,) = server.chat(CAPITAL, skip_special_tokens=False, **asked).choices
    assert shown.token_ids == hidden.token_ids
    assert "<|im_end|>" in shown.message.content


@pytest.mark.parametrize(
    ("stop", "text", "ended_by"),
    [
        ("five", " four, ", "five"),
        (["nine", "seven"], " four, five, six, ", "seven"),
        ("r, fi", " fou", "r, fi"),  # begins and ends inside tokens
        (["five, seven", "six, seven"], " four, five, ", "six, seven"),
        (["ve, six, s", "x, s"], " four, fi", "ve, six, s"),  # the same end: the longer
    ],
)
@pytest.mark.parametrize("include", [False, True])
def test_stop_strings(server: Server, stop: Any, text: str, ended_by: str, include: bool) -> None:
    asked = {"max_tokens": 9, "stop": stop, "include_stop_str_in_output": include}
    expected = text + ended_by if include else text
    (whole,) = server.complete(ONE_TWO, **asked).choices
    assert whole.text == expected
    assert (whole.finish_reason, whole.stop_reason) == ("stop", ended_by)
    shown = ""
    for chunk in server.complete(ONE_TWO, stream=True, **asked):
        shown += chunk.choices[0].text
        assert expected.startswith(shown)  # nothing of the stop string is ever taken back
    assert shown == expected


def test_a_stop_string_that_never_comes_takes_nothing(server: Server) -> None:
    (choice,) = server.complete(ONE_TWO, max_tokens=9, stop=["eight and", "eighth"]).choices
    assert choice.text == " four, five, six, seven, eight"
    assert choice.finish_reason == "length"


def test_stop_token_ids(server: Server, plain: Any) -> None:
    (six,) = words(server, " six")
    asked = {"max_tokens": 9, "stop_token_ids": [six]}
    answer = server.complete(ONE_TWO, **asked, **IDS)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason, choice.stop_reason) == (" four, five,", "stop", six)
    assert choice.token_ids == plain.choices[0].token_ids[:5]
    (shown,) = server.complete(ONE_TWO, include_stop_str_in_output=True, **asked).choices
    assert shown.text == " four, five, six"


def test_stop_in_a_chat(server: Server) -> None:
    (choice,) = server.chat(CAPITAL, stop=[" Germany"]).choices
    assert choice.message.content == "The capital of"
    assert (choice.finish_reason, choice.stop_reason) == ("stop", " Germany")
