"""Tokens to events, one sequence by hand; and events to what Python callers get."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.engine.outputs import SequenceOutput
from flaxen.outputs import Logprob, RequestOutput
from flaxen.protocol import Finish, FinishReason, Request, SamplingParams, TokenEvent, TokenLogprobs
from flaxen.scheduling.executor import RowFailure
from tests.engine.fakes import by_hand, sequence_of
from tests.server.fakes import END, byte_tokenizer

TOKENIZER = byte_tokenizer()


def say(text: str, *last: int, limit: int = 100, **sampling: Any) -> list[TokenEvent]:
    """The events of an output: the bytes of a text, then special ids, up to its end."""
    sequence = sequence_of([65], max_tokens=None, **sampling)
    sequence.max_num_tokens = 1 + limit
    output = SequenceOutput(sequence, TOKENIZER, (END,))
    events = []
    for token_id in [*text.encode(), *last]:
        sequence.tokens.append(token_id)
        events.append(output.push(token_id, None))
        if events[-1].finish is not None:
            break
    return events


def text_of(events: list[TokenEvent]) -> str:
    return "".join(event.text for event in events)


def end_of(events: list[TokenEvent]) -> tuple[str, int | str | None]:
    finish = events[-1].finish
    assert finish is not None
    assert finish.num_output_tokens == len(events) == sum(len(e.token_ids) for e in events)
    return str(finish.reason), finish.stop_reason


def test_eos_ends_it_and_is_no_text() -> None:
    events = say("hello", END, limit=6)
    assert (text_of(events), end_of(events)) == ("hello", ("stop", None))
    shown = say("hello", END, skip_special_tokens=False)
    assert text_of(shown) == "hello"
    both = say("hello", END, skip_special_tokens=False, include_stop_str_in_output=True)
    assert text_of(both) == "hello</s>"


def test_an_ignored_eos_is_a_token() -> None:
    events = say("hi", END, 33, limit=4, ignore_eos=True)
    assert (text_of(events), end_of(events)) == ("hi!", ("length", None))


def test_stop_ids_end_it_and_are_named() -> None:
    for include, text in ((False, "abc"), (True, "abcd")):
        asked = {"stop_token_ids": (100, END), "include_stop_str_in_output": include}
        events = say("abcdef", **asked)
        assert (text_of(events), end_of(events)) == (text, ("stop", 100))
        assert events[-1].token_ids == (100,)
    assert end_of(say("hi", END, stop_token_ids=(END,), ignore_eos=True)) == ("stop", END)


def test_a_special_token_may_be_a_stop_string_though_it_is_not_shown() -> None:
    for shown in (False, True):
        asked: dict[str, Any] = {"skip_special_tokens": not shown, "ignore_eos": True}
        events = say("hi", END, 33, stop=("</s>",), **asked)
        assert (text_of(events), end_of(events)) == ("hi", ("stop", "</s>"))
        events = say("hi", END, 33, stop=("i</s>!",), **asked)
        assert (text_of(events), end_of(events)) == ("h", ("stop", "i</s>!"))
        asked["include_stop_str_in_output"] = True
        events = say("hi", END, 33, stop=("i</s>",), **asked)
        assert (text_of(events), end_of(events)) == ("hi</s>", ("stop", "i</s>"))


def test_a_token_that_ends_it_may_complete_a_stop_string() -> None:
    events = say("hi", END, stop=("i</s>",))
    assert (text_of(events), end_of(events)) == ("h", ("stop", None))
    events = say("hi", END, stop=("i</s>!",))
    assert (text_of(events), end_of(events)) == ("hi", ("stop", None))


def test_stop_strings_end_it_and_are_named() -> None:
    for include, text in ((False, "one, "), (True, "one, two")):
        events = say("one, two, three", stop=("wo", "two"), include_stop_str_in_output=include)
        assert (text_of(events), end_of(events)) == (text, ("stop", "two"))
        assert len(events) == 8


def test_what_may_become_a_stop_string_waits() -> None:
    events = say("abab!", limit=5, stop=("abc",))
    assert [event.text for event in events] == ["", "", "ab", "", "ab!"]
    assert end_of(events) == ("length", None)


def test_held_text_comes_with_the_end() -> None:
    events = say("xyab", limit=4, stop=("abc",))
    assert [event.text for event in events] == ["x", "y", "", "ab"]
    assert [event.text for event in say("xyab", END, stop=("abc",))] == ["x", "y", "", "", "ab"]


def test_a_character_comes_whole() -> None:
    assert [event.text for event in say("né", limit=3)] == ["n", "", "é"]
    assert [event.text for event in say("né", limit=2)] == ["n", "\ufffd"]


def test_nothing_stops_before_min_tokens() -> None:
    asked = {"min_tokens": 3, "stop_token_ids": (98,), "stop": ("a",)}
    assert (text_of(say("aab", **asked)), end_of(say("aab", **asked))) == ("aa", ("stop", 98))
    assert end_of(say("aba", **asked)) == ("stop", "a")


def test_stop_comes_before_length() -> None:
    assert end_of(say("abc", limit=3, stop=("bc",))) == ("stop", "bc")
    assert end_of(say("abc", limit=3, stop_token_ids=(99,))) == ("stop", 99)


def test_without_a_tokenizer_there_is_no_text() -> None:
    sequence = sequence_of([5], max_tokens=None)
    sequence.max_num_tokens = 9
    output = SequenceOutput(sequence, None, (2,))
    sequence.tokens.append(7)
    assert output.push(7, None).text == ""


def test_an_early_end_says_what_happened() -> None:
    sequence = sequence_of([65, 66], stop=("abc",))
    sequence.max_num_tokens = 9
    output = SequenceOutput(sequence, TOKENIZER, (END,))
    sequence.tokens.append(97)
    assert output.push(97, None).text == ""
    sequence.arrival_s, sequence.first_scheduled_s, sequence.num_cached_tokens = 3.0, 5.5, 1
    event = output.finish(FinishReason.ABORT, error="aborted by the client")
    assert event.finish == Finish(
        reason=FinishReason.ABORT, error="aborted by the client", num_prompt_tokens=2,
        num_output_tokens=1, num_cached_tokens=1, queue_s=2.5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("failure", "reason", "message"),
    [
        (RowFailure.NOT_FINITE, FinishReason.ERROR, "the model's output is not finite"),
        (
            RowFailure.NO_TOKEN_ALLOWED,
            FinishReason.IMPOSSIBLE,
            "no token may be sampled: allowed_token_ids, bad_words, logit_bias and min_tokens "
            "together forbid all of them",
        ),
    ],
)
def test_a_row_without_a_token_ends_by_what_failed(
    failure: RowFailure, reason: FinishReason, message: str
) -> None:
    finish = SequenceOutput(sequence_of([65]), TOKENIZER, (END,)).fail(failure).finish
    assert finish is not None
    assert finish.reason is reason
    assert message in str(finish.error)


def test_prompt_logprobs_come_once_and_whole() -> None:
    sequence = sequence_of([5, 6, 7], max_tokens=None)
    sequence.max_num_tokens = 9
    output = SequenceOutput(sequence, None, (2,))
    output.prompt_logprobs += [None, by_hand(6, 1)]
    early = output.finish(FinishReason.ABORT, error="aborted")
    assert early.prompt_logprobs is None, "one for each prompt token, or none"
    output.prompt_logprobs.append(by_hand(7, 1))
    sequence.tokens.append(8)
    assert output.push(8, None).prompt_logprobs == (None, by_hand(6, 1), by_hand(7, 1))
    sequence.tokens.append(9)
    assert output.push(9, None).prompt_logprobs is None


def event(index: int, *token_ids: int, reason: FinishReason | None = None, **more: Any) -> Any:
    finish = None
    if reason is not None:
        finish = Finish(
            reason=reason, stop_reason="x", error="e", num_prompt_tokens=2, num_output_tokens=1,
            num_cached_tokens=4 + index, queue_s=0,
        )  # fmt: skip
    logprobs = tuple(by_hand(token_id, 1) for token_id in token_ids)
    return TokenEvent(
        request_id="r", index=index, token_ids=token_ids, text="é" * len(token_ids),
        logprobs=logprobs, finish=finish, **more,
    )  # fmt: skip


def test_a_request_output_grows_by_events() -> None:
    request = Request(request_id="r", prompt_token_ids=(5, 6), sampling=SamplingParams(n=2))
    output = RequestOutput.of(request, "hi", TOKENIZER)
    assert (output.prompt, output.prompt_token_ids, output.finished) == ("hi", (5, 6), False)
    output.add(event(0, 97, 99, prompt_logprobs=(None, by_hand(66, 2))))
    output.add(event(1, 98))
    output.add(event(1, reason=FinishReason.ABORT))
    assert not output.finished
    first, second = output.outputs
    assert (second.finish_reason, second.stop_reason, second.error) == ("abort", "x", "e")
    assert (first.text, first.token_ids, first.finish_reason) == ("éé", [97, 99], None)
    output.add(event(0, 100, reason=FinishReason.STOP))
    assert output.finished
    assert output.prompt_logprobs == [None, {66: Logprob(-66, 1, "B"), 67: Logprob(-67, 2, "C")}]
    assert output.num_cached_tokens == 4
    assert first.cumulative_logprob == -296
    assert first.logprobs == [
        {97: Logprob(-97, 1, "a")}, {99: Logprob(-99, 1, "c")}, {100: Logprob(-100, 1, "d")},
    ]  # fmt: skip


def test_no_logprobs_where_none_came() -> None:
    request = Request(request_id="r", prompt_token_ids=(5,), sampling=SamplingParams())
    output = RequestOutput.of(request, None)
    output.add(TokenEvent(request_id="r", index=0, token_ids=(1,), text="a"))
    (only,) = output.outputs
    assert (only.logprobs, only.cumulative_logprob) == (None, None)


def test_a_token_that_is_not_among_the_likeliest_comes_first() -> None:
    request = Request(request_id="r", prompt_token_ids=(5,), sampling=SamplingParams())
    output = RequestOutput.of(request, None)
    rare = TokenLogprobs(token_id=9, logprob=-7.0, rank=50, top=((4, -0.5), (8, -1.5)))
    output.add(TokenEvent(request_id="r", index=0, token_ids=(9,), logprobs=(rare,)))
    (found,) = output.outputs[0].logprobs or []
    assert list(found.items()) == [
        (9, Logprob(-7.0, 50, None)), (4, Logprob(-0.5, 1, None)), (8, Logprob(-1.5, 2, None)),
    ]  # fmt: skip
