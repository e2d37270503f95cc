"""Speculative decoding gives what plain decoding gives, whatever is drafted: on the fake device."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxen.engine.core import Engine
from flaxen.protocol import Request, SamplingParams
from tests.engine.drafters import Always, Reader, Scripted
from tests.engine.fakes import EOS_ID, POISON, SMALL, Ends, fake_engine, run_out
from tests.engine.grammars import Rule
from tests.scheduling.groups import full

K = 3
CONFIG = replace(SMALL, num_spec_tokens=K)


class Successor(Reader):
    """The fake's own rule, right as often as a list of booleans says."""

    def __init__(self, is_right: list[bool]) -> None:
        self._is_right = is_right or [True]
        self._asked = 0

    def after(self, token_ids: Ids[int], num_spec_tokens: int) -> list[int]:
        found = []
        for i in range(num_spec_tokens):
            self._asked += 1
            is_right = self._is_right[self._asked % len(self._is_right)]
            found.append((token_ids[-1] + 1 + i if is_right else token_ids[-1] + 50) % 300)
        return found


def engine_of(drafter: object, **changes: object) -> Engine:
    return fake_engine(replace(CONFIG, **changes), drafter=drafter, payoff=Always())


def request(name: str, prompt: list[int], **sampling: object) -> Request:
    params = {"max_tokens": 10, "ignore_eos": True, **sampling}
    return Request(
        request_id=name, prompt_token_ids=tuple(prompt), sampling=SamplingParams(**params)
    )


def run(engine: Engine, *requests: Request) -> Ends:
    for each in requests:
        engine.add(engine.check(each))
    return run_out(engine)


def test_right_drafts_take_fewer_steps() -> None:
    plain, speculative = fake_engine(), engine_of(Successor([True]))
    asked = request("r", [5, 6, 7], max_tokens=12)
    assert run(plain, asked).tokens == run(speculative, asked).tokens
    assert plain.stats().num_steps == 12
    stats = speculative.stats()
    assert stats.num_steps == 5  # 1, 1 that was planned ahead, 4, 4, 2
    assert stats.num_draft_tokens == stats.num_accepted_tokens == 7
    assert (stats.num_drafts, stats.accepted_per_pos) == (3, (3, 2, 2))


def test_wrong_drafts_take_as_many_steps_as_none() -> None:
    engine = engine_of(Successor([False]))
    assert run(engine, request("r", [5, 6, 7])).tokens == {("r", 0): list(range(8, 18))}
    assert engine.stats().num_steps == 10
    assert engine.stats().num_accepted_tokens == 0


def test_half_right_drafts_are_kept_up_to_the_first_wrong_one() -> None:
    engine = engine_of(Scripted({8: [9, 10], 9: [10, 11, 99], 12: [99, 14, 15]}))
    ends = run(engine, request("r", [5, 6, 7]))  # 8; 9; 10, 11, 12; 13; 14; ...
    assert ends.tokens == {("r", 0): list(range(8, 18))}
    assert engine.stats().num_steps == 8


def test_no_draft_goes_past_the_last_token() -> None:
    for max_tokens in range(1, 9):
        engine = engine_of(Successor([True]))
        ends = run(engine, request("r", [5], max_tokens=max_tokens))
        assert ends.tokens == {("r", 0): list(range(6, 6 + max_tokens))}
        assert ends.reasons == {("r", 0): "length"}


def test_nothing_follows_a_token_that_ends_a_sequence() -> None:
    engine = engine_of(Successor([True]))
    ends = run(engine, request("r", [5], stop_token_ids=(8,)))  # in the middle of 7, 8, 9, 10
    assert ends.tokens == {("r", 0): [6, 7, 8]}
    assert ends.reasons == {("r", 0): "stop"}
    ends = run(engine, request("r", [EOS_ID - 2], ignore_eos=False))
    assert ends.tokens[("r", 0)] == [1, EOS_ID]


def test_logprobs_come_with_each_token() -> None:
    engine = engine_of(Successor([True, True, False]))
    engine.add(engine.check(request("r", [5], logprobs=2, max_tokens=9)))
    found = []
    while engine.has_work:
        found += [lp for event in engine.step() for lp in event.logprobs or ()]
    assert [lp.token_id for lp in found] == list(range(6, 15))
    assert [lp.logprob for lp in found] == [-float(i) for i in range(6, 15)]


def test_a_sequence_that_fails_in_the_middle_keeps_the_tokens_before() -> None:
    engine = engine_of(Successor([True]))
    ends = run(engine, request("r", [POISON - 3]), request("s", [5]))
    assert ends.tokens[("r", 0)] == [POISON - 2, POISON - 1, POISON]
    assert ends.reasons == {("r", 0): "error", ("s", 0): "length"}
    assert ends.tokens[("s", 0)] == list(range(6, 16))


def test_a_drafter_that_fails_is_not_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    engine = engine_of(Scripted({7: [8, 300]}))
    ends = run(engine, request("r", [5]), request("s", [5]))
    assert ends.tokens == {("r", 0): list(range(6, 16)), ("s", 0): list(range(6, 16))}
    assert "all sequences go on without drafts" in caplog.text
    assert "outside the vocabulary of 300 tokens" in caplog.text


def test_a_drafter_that_fails_when_it_is_first_asked_changes_nothing() -> None:
    class Failing(Reader):
        def after(self, token_ids: Ids[int], most: int) -> list[int]:
            raise RuntimeError("out of memory")

    ends = run(engine_of(Failing()), request("r", [5]), request("s", [5]))
    assert ends.tokens == {("r", 0): list(range(6, 16)), ("s", 0): list(range(6, 16))}


def test_a_grammar_that_fails_to_foresee_goes_without_drafts_alone() -> None:
    class Blind(Rule):
        def forced_tokens(self) -> list[int]:
            raise RuntimeError("too ambiguous")

    engine = engine_of(Successor([True]))
    blind = replace(request("r", [5]), grammar=lambda: Blind(lambda tokens: range(300)))
    ends = run(engine, blind, request("s", [5]))
    assert ends.tokens == {("r", 0): list(range(6, 16)), ("s", 0): list(range(6, 16))}
    assert engine.stats().num_accepted_tokens == 6  # of s


def test_a_drafter_without_room_for_drafts_is_refused() -> None:
    with pytest.raises(ValueError, match="num_spec_tokens is 0: set it to at least 1"):
        fake_engine(drafter=Successor([True]))


@settings(max_examples=60, deadline=None)
@given(
    is_right=st.lists(st.booleans(), max_size=7),
    prompts=st.lists(
        st.tuples(st.integers(3, 200), st.integers(1, 30), st.integers(1, 20)),
        min_size=1,
        max_size=8,
    ),
    num_pages=st.integers(16, 24),
    budget=st.integers(8, 16),
    num_spec_tokens=st.integers(1, 5),
)
def test_any_drafts_in_any_crowd_give_plain_decoding(
    is_right: list[bool],
    prompts: list[tuple[int, int, int]],
    num_pages: int,
    budget: int,
    num_spec_tokens: int,
) -> None:
    """With chunks, preemption, and prefixes that are found again in a second round."""
    engine = engine_of(
        Successor(is_right),
        groups=full(num_pages),
        max_num_batched_tokens=budget,
        num_spec_tokens=num_spec_tokens,
    )
    for _ in range(2):
        ends = run(
            engine,
            *(
                request(str(i), list(range(first, first + length)), max_tokens=num_out)
                for i, (first, length, num_out) in enumerate(prompts)
            ),
        )
        for i, (first, length, num_out) in enumerate(prompts):
            expected = range(first + length, first + length + num_out)
            assert ends.tokens[(str(i), 0)] == list(expected)
