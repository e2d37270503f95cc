"""Predicted outputs: what is proposed from them, and that answers are those of plain decoding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxen.engine.core import Engine
from flaxen.engine.speculative.config import read_config
from flaxen.engine.speculative.ngram import Ngrams
from flaxen.engine.speculative.prediction import Predicted
from flaxen.engine.speculative.reading import reading_drafter
from flaxen.engine.speculative.suffix import Suffixes
from flaxen.protocol import FieldError, Finish, Request
from flaxen.scheduling.sequence import Sequence
from tests.engine.drafters import Always, Constant, Scripted
from tests.engine.fakes import SMALL, fake_engine, run_out, sequence_of
from tests.engine.grammars import Rule
from tests.engine.lora import LORA_SHAPE, adapted, make_adapter
from tests.engine.test_speculation import request as plain_request
from tests.engine.tiny import ONE_SHAPE, make_engine, make_executor, prompts, request, run, trace

CONFIG = replace(SMALL, num_spec_tokens=3)
PROMPT = [5, 6, 7]
ANSWER = list(range(8, 20))  # of the fake device
NOTHING = Scripted({})


def drafted(
    text: list[int], output: list[int], *, at_once: bool = False, most: int = 3
) -> list[int]:
    """Returns what the drafter proposes after an output whose tokens came one at a time, or all at
    once.
    """
    drafter, sequence = Predicted(Constant(99, 99, 99, 99)), sequence_of(PROMPT)
    sequence.prediction = tuple(text)
    for token in output:
        if not at_once:
            drafter.propose({sequence: most})
        sequence.tokens.append(token)
    return list(drafter.propose({sequence: most})[sequence])


@pytest.mark.parametrize("at_once", [False, True])
def test_the_beginning_is_proposed_first_and_then_what_follows(at_once: bool) -> None:
    text = [10, 11, 12, 13, 14]
    assert drafted(text, []) == [10, 11, 12]
    assert drafted(text, [10, 11], at_once=at_once) == [12, 13, 14]
    assert drafted(text, [10, 11, 12], at_once=at_once) == [13, 14]
    assert drafted(text, text, at_once=at_once) == [
        99,
        99,
        99,
    ]  # nothing is left: the other drafter


TEXT = list(range(100, 200))


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ([100, 101, 7], 99),  # it has left the prediction
        ([100, 101, 7, 103], 99),
        ([100, 101, 7, 103, 104], 105),  # one was replaced
        ([100, 101, 7, 8, 9, 102, 103], 104),  # some were put in
        ([100, 101, 110, 111], 112),  # some were left out
        ([100, 101, 150, 151], 99),  # two tokens are too few where it is far
        ([100, 101, 150, 151, 152], 153),
        ([*range(130, 140), 7, 7, 7, 110, 111, 112], 113),  # it goes back
        ([7, 8, 9, 100, 101, 102], 103),  # it begins late
    ],
)
def test_the_place_is_found_again(at_once: bool, output: list[int], expected: int) -> None:
    assert drafted(TEXT, output, at_once=at_once)[0] == expected


def test_of_equal_places_the_next_one_is_taken() -> None:
    text = [1, 2, 3, 50, 60, 1, 2, 3, 51, 61, 1, 2, 3, 52]
    assert drafted(text, [1, 2, 3, 50, 9, 1, 2, 3])[0] == 51
    assert drafted(text, [1, 2, 3, 50, 60, 1, 2, 3, 51, 9, 1, 2, 3])[0] == 52


def test_the_prompt_is_no_part_of_the_answer() -> None:
    assert drafted([*PROMPT, 30], [9])[0] == 99


def test_what_is_kept_of_a_sequence_ends_with_it() -> None:
    drafter, sequence = Predicted(NOTHING), sequence_of(PROMPT)
    sequence.prediction = (1, 2)
    drafter.propose({sequence: 1})
    drafter.end(sequence)
    assert drafter._followed == {}
    assert NOTHING.has_ended


def test_both_methods_that_read_take_predictions() -> None:
    for method, kind in (("ngram", Ngrams), ("suffix", Suffixes)):
        drafter = reading_drafter(read_config({"method": method}))
        assert isinstance(drafter, Predicted)
        assert isinstance(drafter._drafter, kind)


def predicted(text: list[int], each: Request | None = None, **sampling: Any) -> Request:
    each = each or plain_request("r", PROMPT, **{"max_tokens": len(ANSWER), **sampling})
    return replace(each, prediction_token_ids=tuple(text))


def engine_of(**changes: Any) -> Engine:
    drafter = Predicted(Ngrams(3, 5))
    return fake_engine(replace(CONFIG, **changes), drafter=drafter, payoff=Always())


def ended(engine: Engine, *requests: Request) -> tuple[list[list[int]], list[Finish]]:
    """The tokens of requests' first sequences, and how these ended."""
    for each in requests:
        engine.add(engine.check(each))
    tokens: dict[str, list[int]] = {each.request_id: [] for each in requests}
    ends: dict[str, Finish] = {}
    while engine.has_work:
        for event in engine.step():
            tokens[event.request_id] += event.token_ids
            if event.finish is not None:
                ends[event.request_id] = event.finish
    run_out(engine)
    return list(tokens.values()), [ends[each.request_id] for each in requests]


def test_a_prediction_that_is_right_takes_fewer_steps() -> None:
    engine = engine_of()
    tokens, [finish] = ended(engine, predicted(ANSWER))
    assert tokens == [ANSWER]
    # The first token, one that was planned ahead, four, four and two.
    assert engine.stats().num_steps == 5
    assert (finish.num_predicted_right, finish.num_predicted_wrong) == (7, 0)


@pytest.mark.parametrize("text", [[], [250] * 12, ANSWER[::-1]])
def test_a_prediction_that_is_wrong_changes_nothing(text: list[int]) -> None:
    engine = engine_of()
    tokens, [finish] = ended(engine, predicted(text))
    assert tokens == [ANSWER]
    assert engine.stats().num_steps == len(ANSWER)
    assert finish.num_predicted_right == 0
    assert finish.num_predicted_wrong == engine.stats().num_draft_tokens


def test_an_edited_text_is_rejected_where_it_was_edited() -> None:
    engine = engine_of()
    text = [*ANSWER[:4], 250, *ANSWER[5:]]
    tokens, [finish] = ended(engine, predicted(text))
    assert tokens == [ANSWER]
    stats = engine.stats()
    # 8; 9; 10, 11, not 250 but 12; 13; 14; 15, 16, 17 and 18; 19
    assert (finish.num_predicted_right, finish.num_predicted_wrong) == (5, 1)
    assert (stats.num_draft_tokens, stats.num_steps) == (6, 7)


def test_what_is_right_behind_the_end_is_not_counted() -> None:
    _, [finish] = ended(engine_of(), predicted(ANSWER, stop_token_ids=(ANSWER[2],)))
    assert finish.num_output_tokens == 3
    assert finish.num_predicted_right <= 3


def test_what_the_other_drafter_says_is_not_counted() -> None:
    engine = fake_engine(
        CONFIG, drafter=Predicted(Scripted({8: [9, 10], 9: [10, 11]})), payoff=Always()
    )
    _, [finish] = ended(engine, predicted([250]))
    assert engine.stats().num_accepted_tokens == 2
    assert (finish.num_predicted_right, finish.num_predicted_wrong) == (0, 0)


def test_what_a_grammar_forces_is_not_counted() -> None:
    class Forcing(Rule):
        def forced_tokens(self) -> list[int]:
            last = self.tokens[-1] if self.tokens else 13
            return [last + 1, last + 2] if last < 13 else []

    asked = plain_request("r", PROMPT, max_tokens=len(ANSWER))
    each = replace(asked, grammar=lambda: Forcing(lambda _: range(300)))
    engine = engine_of()
    tokens, [finish] = ended(engine, predicted([*ANSWER[:6], 250, *ANSWER[7:]], each))
    assert tokens == [ANSWER]
    stats = engine.stats()
    assert 0 < finish.num_predicted_right < stats.num_accepted_tokens
    assert finish.num_predicted_right + finish.num_predicted_wrong < stats.num_draft_tokens


def test_drafts_that_a_grammar_forbids_are_not_tried() -> None:
    each = replace(plain_request("r", PROMPT), grammar=lambda: Rule(lambda _: range(8, 100)))
    engine = engine_of()
    tokens, [finish] = ended(engine, predicted([*ANSWER[:4], 250, *ANSWER[5:]], each))
    assert tokens == [ANSWER[:10]]
    assert (finish.num_predicted_right, finish.num_predicted_wrong) == (3, 0)


def test_an_engine_without_a_drafter_ignores_it() -> None:
    engine = fake_engine()
    tokens, [finish] = ended(engine, predicted(ANSWER))
    assert tokens == [ANSWER]
    assert engine.stats().num_steps == len(ANSWER)
    assert finish.num_predicted_right == 0


def test_a_prediction_has_the_limits_of_a_prompt() -> None:
    engine = engine_of()
    engine.check(predicted([8] * SMALL.max_model_len))
    with pytest.raises(FieldError, match="has 65 tokens, and the model takes 64: shorten it") as e:
        engine.check(predicted([8] * 65))
    assert e.value.field == "prediction_token_ids"
    with pytest.raises(FieldError, match="the prediction holds token id 300, outside"):
        engine.check(predicted([300]))


@settings(max_examples=60, deadline=None)
@given(
    predictions=st.lists(
        st.lists(st.tuples(st.integers(8, 40), st.integers(1, 12)), max_size=4),
        min_size=1,
        max_size=6,
    ),
    num_pages=st.integers(16, 24),
    num_spec_tokens=st.integers(1, 5),
)
def test_any_predictions_in_any_crowd_give_plain_decoding(
    predictions: list[list[tuple[int, int]]], num_pages: int, num_spec_tokens: int
) -> None:
    """Pieces of the answer in any order, with chunks and preemption."""
    engine = engine_of(groups=SMALL.groups, num_spec_tokens=num_spec_tokens)
    asked = [
        predicted(
            [token for first, length in pieces for token in range(first, first + length)],
            plain_request(str(i), PROMPT, max_tokens=20),
        )
        for i, pieces in enumerate(predictions)
    ]
    tokens, finishes = ended(engine, *asked)
    assert tokens == [list(range(8, 28))] * len(asked)
    stats = engine.stats()
    assert sum(each.num_predicted_right for each in finishes) <= stats.num_accepted_tokens


SPECULATING = replace(ONE_SHAPE, num_spec_tokens=3)


def edited(tokens: list[int], every: int) -> list[int]:
    return [token + 1 if i % every == every - 1 else token for i, token in enumerate(tokens)]


def test_real_steps_give_the_bits_of_plain_decoding() -> None:
    executor = make_executor(SPECULATING)
    settings: list[dict[str, Any]] = [
        {},
        {"temperature": 1.0, "seed": 5, "top_p": 0.9},
        {"presence_penalty": 1.0, "repetition_penalty": 1.3},
    ]
    asked = [
        request(f"r{i}", prompt, **{"max_tokens": 30, **settings[i % 3]})
        for i, prompt in enumerate(prompts([1, 5, 17, 40, 64, 3]))
    ]
    plain_engine = make_engine(SPECULATING, executor=executor)
    plain = run(plain_engine, asked)
    for every, most_steps in ((40, 0.5), (10, 0.8), (1, 2.0)):
        drafter = Predicted(Ngrams(3, 5))
        engine = make_engine(SPECULATING, executor=executor, drafter=drafter, payoff=Always())
        with_predictions = [
            predicted(edited(list(output.outputs[0].token_ids), every), each)
            for each, output in zip(asked, plain, strict=True)
        ]
        got = run(engine, with_predictions)
        assert [trace(each) for each in got] == [trace(each) for each in plain]
        assert engine.stats().num_steps < most_steps * plain_engine.stats().num_steps


def test_adapters_have_predictions_of_their_own() -> None:
    config = replace(LORA_SHAPE, num_spec_tokens=3)
    executor = make_executor(config)
    asked = [adapted(str(i), prompts([9])[0], name) for i, name in enumerate([None, "a", "b"])]

    def engine_with(**more: Any) -> Engine:
        engine = make_engine(config, executor=executor, **more)
        for seed, name in enumerate("ab"):
            engine.adapters.load(name, make_adapter(seed))
        return engine

    plain = run(engine_with(), asked)
    engine = engine_with(drafter=Predicted(Ngrams(3, 5)), payoff=Always())
    got = run(
        engine,
        [
            predicted(list(output.outputs[0].token_ids), each)
            for each, output in zip(asked, plain, strict=True)
        ],
    )
    assert [trace(each) for each in got] == [trace(each) for each in plain]
    assert engine.stats().num_accepted_tokens > len(asked) * 6


def test_sequences_of_a_request_each_follow_it() -> None:
    engine = engine_of()
    engine.add(engine.check(predicted(ANSWER, n=3)))
    ends = run_out(engine)
    assert [ends.tokens["r", i] for i in range(3)] == [ANSWER] * 3
    assert engine.stats().num_steps < 3 * len(ANSWER)


def test_a_sequence_without_a_prediction_is_the_other_drafters() -> None:
    seen: list[Sequence] = []

    class Noting(Scripted):
        def propose(self, wanted: Any) -> Any:
            seen.extend(wanted)
            return super().propose(wanted)

    drafter = Predicted(Noting({7: [8]}))
    bare, with_one = sequence_of(PROMPT), sequence_of(PROMPT)
    with_one.prediction = (30,)
    found = drafter.propose({bare: 2, with_one: 2})
    assert {bare: [8], with_one: (30,)} == dict(found)
    assert seen == [bare]
