"""A request's way through the engine: each ends once, in one of three ways, and frees its pages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flaxen.engine.core import Engine
from flaxen.protocol import EngineBusyError, Request, SamplingParams
from tests.engine.fakes import (
    EOS_ID,
    POISON,
    SMALL,
    VOCAB_SIZE,
    Ends,
    FakeClock,
    FakeExecutor,
    add,
    fake_engine,
    run_out,
)
from tests.scheduling.groups import full

CROWDED = replace(SMALL, groups=full(20))


def ask(name: str, prompt: list[int], timeout_s: float | None = None, **sampling: Any) -> Request:
    return Request(
        request_id=name, prompt_token_ids=tuple(prompt), timeout_s=timeout_s,
        sampling=SamplingParams(**{"max_tokens": 5, **sampling}),
    )  # fmt: skip


def ended(engine: Engine) -> tuple[int, int, int]:
    stats = engine.stats()
    return stats.num_finished, stats.num_aborted, stats.num_failed


def test_tokens_are_those_computed_by_hand() -> None:
    engine = fake_engine()
    for i in range(12):
        add(engine, ask(f"r{i}", list(range(10 * i, 10 * i + i + 1)), max_tokens=i + 1))
    add(engine, ask("eos", [0], max_tokens=9))
    ends = run_out(engine)
    for i in range(12):
        expected = [10 * i + i + 1 + k for k in range(i + 1)]
        if EOS_ID in expected:
            expected = expected[: expected.index(EOS_ID) + 1]
        assert ends.tokens[f"r{i}", 0] == expected
    assert ends.tokens["eos", 0] == [1, EOS_ID]
    stats = engine.stats()
    assert stats.num_generated_tokens == sum(map(len, ends.tokens.values()))
    assert stats.num_prompt_tokens == sum(i + 1 for i in range(12)) + 1
    assert ended(engine) == (13, 0, 0)


def reach(engine: Engine, state: str) -> None:
    """Brings request b to a state, beside request a."""
    add(engine, ask("a", list(range(100, 128)), max_tokens=None))
    prompt = range(200, 240) if state == "in a chunk" else range(200, 228)
    add(engine, ask("b", list(prompt), max_tokens=1 if state == "last in flight" else None))
    if state == "queued":
        return
    if state == "preempted":
        while not engine.stats().num_preemptions:
            engine.step()
        return
    # Three steps of 16 tokens compute a's prompt and 18 tokens or so of b's.
    num_steps = {"in a chunk": 3, "last in flight": 4, "in flight": 4, "decoding": 9}[state]
    for _ in range(num_steps):
        engine.step()


@pytest.mark.parametrize(
    "state", ["queued", "in a chunk", "in flight", "last in flight", "decoding", "preempted"]
)
def test_an_abort_in_every_state_frees_all_pages_at_once(state: str) -> None:
    engine = fake_engine(CROWDED)
    reach(engine, state)
    assert engine.stats().num_used_pages > 0 or state == "queued"
    engine.abort("b")
    engine.abort("b")
    stats = engine.stats()
    assert stats.num_running + stats.num_waiting == 1
    engine.abort("a")
    assert engine.stats().num_used_pages == 0
    assert ended(engine) == (0, 2, 0)
    add(engine, ask("b", [7]))  # the name is free again, also while its old step is in flight
    ends = Ends()
    events = []
    while engine.has_work:
        events += engine.step()
    assert [e.request_id for e in events if e.finish and e.finish.reason == "abort"] == ["b", "a"]
    ends.take([e for e in events if not (e.finish and e.finish.reason == "abort")])
    assert ends.tokens["b", 0] == [8, 9, 10, 11, 12]
    assert engine.stats().num_used_pages == 0


def test_the_states_are_what_they_are_called() -> None:
    found = {}
    for state in ("queued", "in a chunk", "in flight", "last in flight", "decoding", "preempted"):
        engine = fake_engine(CROWDED)
        reach(engine, state)
        stats = engine.stats()
        found[state] = stats.num_running, stats.num_waiting
    assert found == {
        "queued": (0, 2), "in a chunk": (2, 0), "in flight": (2, 0), "last in flight": (2, 0),
        "decoding": (2, 0), "preempted": (1, 1),
    }  # fmt: skip


def test_an_unknown_id_is_not_aborted() -> None:
    engine = fake_engine()
    add(engine, ask("r", [7]))
    engine.abort("other")
    assert run_out(engine).tokens["r", 0] == [8, 9, 10, 11, 12]
    engine.abort("r")
    assert not engine.has_work
    assert ended(engine) == (1, 0, 0)


def test_an_abort_ends_every_one_of_n_once() -> None:
    engine = fake_engine()
    add(engine, ask("r", [7], n=3, max_tokens=20))
    engine.step()
    engine.abort("r")
    ends = run_out(engine)
    assert ends.reasons == {("r", 0): "abort", ("r", 1): "abort", ("r", 2): "abort"}
    assert set(ends.errors.values()) == {"aborted by the client"}
    assert ended(engine) == (0, 1, 0)


def test_a_request_counts_once_by_its_worst_end() -> None:
    engine = fake_engine()
    add(engine, ask("fails", [POISON - 3], n=2))
    add(engine, ask("is fine", [7], n=2))
    ends = run_out(engine)
    assert ends.tokens["fails", 1] == [POISON - 2, POISON - 1, POISON]
    assert ends.reasons["fails", 0] == "error"
    assert "the model's output is not finite" in str(ends.errors["fails", 0])
    assert ended(engine) == (1, 0, 1)


def test_a_timeout_is_of_its_own_request_alone() -> None:
    """The id is used again before the first one's time is over."""
    clock = FakeClock()
    engine = fake_engine(clock=clock)
    add(engine, ask("a", [50], timeout_s=5, max_tokens=2))
    run_out(engine)
    add(engine, ask("a", [60], max_tokens=9))
    add(engine, ask("b", [70], timeout_s=3, max_tokens=9))
    engine.step()
    clock.now += 6
    assert run_out(engine).reasons == {("a", 0): "length", ("b", 0): "timeout"}


def test_a_timeout_ends_it_wherever_it_is() -> None:
    clock = FakeClock()
    engine = fake_engine(replace(SMALL, max_num_seqs=2), clock=clock)
    add(engine, ask("late", [50], timeout_s=5, max_tokens=None))
    add(engine, ask("patient", [60], timeout_s=50, max_tokens=None))
    add(engine, ask("queued", [70], timeout_s=5, max_tokens=None))
    add(engine, ask("came before", [80], max_tokens=2), arrival_s=90.0)
    ends = Ends()
    for _ in range(4):
        ends.take(engine.step())
    clock.now = 104.9
    ends.take(engine.step())
    assert ends.reasons == {}
    clock.now = 105.0
    ends.take(engine.step())
    assert set(ends.reasons.items()) == {(("late", 0), "timeout"), (("queued", 0), "timeout")}
    assert ends.errors["late", 0] == "timeout: the request took longer than it was given"
    assert ends.tokens["late", 0] == [51, 52, 53, 54]
    run_out(engine, ends)
    assert ends.reasons["patient", 0] == "length"
    assert ended(engine) == (2, 2, 0)


def test_time_in_the_queue_is_counted_from_arrival() -> None:
    clock = FakeClock()
    engine = fake_engine(replace(SMALL, max_num_seqs=1), clock=clock)
    add(engine, ask("first", [50], max_tokens=2))
    add(engine, ask("second", [60], max_tokens=2), arrival_s=97.0)
    queued = {}
    while engine.has_work:
        for event in engine.step():
            if event.finish is not None:
                queued[event.request_id] = event.finish.queue_s
        clock.now += 1
    assert queued["first"] == 0
    assert queued["second"] == pytest.approx(6.0)  # admitted at 103, when the first's last came


def test_a_full_queue_refuses_and_takes_again() -> None:
    engine = fake_engine()
    for i in range(15):
        add(engine, ask(f"r{i}", [7 + i]))
    assert engine.has_room(1)
    assert not engine.has_room(2)
    with pytest.raises(
        EngineBusyError, match=r"the queue is full: 15 sequences wait, .* at most 8"
    ):
        add(engine, ask("two", [7], n=2))
    add(engine, ask("last", [7]))
    for _ in range(2):
        with pytest.raises(EngineBusyError, match="try again later"):
            add(engine, ask("one", [7]))
        engine.step()  # admits eight: as many run and wait as before
    ends = run_out(engine)
    assert len(ends.reasons) == 16
    add(engine, ask("two", [7], n=2))
    assert len(run_out(engine).reasons) == 2
    assert ended(engine) == (17, 0, 0)


def test_an_id_is_of_one_open_request() -> None:
    engine = fake_engine()
    add(engine, ask("r", [7]))
    with pytest.raises(ValueError, match="request id 'r' is in use: give another"):
        add(engine, ask("r", [8]))
    assert run_out(engine).tokens["r", 0] == [8, 9, 10, 11, 12]
    add(engine, ask("r", [8]))
    assert run_out(engine).tokens["r", 0] == [9, 10, 11, 12, 13]


def test_what_can_not_be_served_leaves_nothing_behind() -> None:
    engine = fake_engine()
    for request, message in (
        (ask("r", [VOCAB_SIZE]), "outside the vocabulary"),
        (ask("r", [7], bad_words=("unsupported",)), "a row can't hold these"),
        (ask("r", [7], stop=("a",)), "stop strings need a tokenizer"),
        (ask("r", [7], n=17), "n must be at most 16"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.check(request)
    assert not engine.has_work
    add(engine, ask("r", [7], n=16, seed=2**63 - 1))  # the others' seeds go beyond the largest
    assert len(run_out(engine).reasons) == 16


def test_a_prefix_is_found_and_counted() -> None:
    engine = fake_engine(executor=FakeExecutor())
    cached = []
    for _ in range(2):
        add(engine, ask("r", list(range(20, 35))))
        while engine.has_work:
            cached += [e.finish.num_cached_tokens for e in engine.step() if e.finish]
    assert cached == [0, 12]


def test_prompt_logprobs_come_once_also_to_who_is_preempted() -> None:
    engine = fake_engine(CROWDED)
    for name, first in (("a", 100), ("b", 200)):
        prompt = list(range(first, first + 28))
        add(engine, ask(name, prompt, max_tokens=None, prompt_logprobs=1))
    scored = []
    while engine.has_work:
        scored += [e.request_id for e in engine.step() if e.prompt_logprobs is not None]
    assert engine.stats().num_preemptions > 0
    assert sorted(scored) == ["a", "b"]
