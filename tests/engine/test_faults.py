"""What breaks, breaks its own requests only, and the engine goes on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from flaxen.execution.jax_executor import JaxExecutor
from flaxen.outputs import RequestOutput
from flaxen.protocol import Request, SamplingParams
from flaxen.scheduling.config import EngineConfig
from tests.engine.fakes import (
    POISON,
    VOCAB_SIZE,
    Ends,
    FakeClock,
    FakeExecutor,
    FaultyExecutor,
    add,
    fake_engine,
    run_out,
)
from tests.engine.tiny import make_engine, request, run, trace
from tests.scheduling.groups import full

NAMES = ("load", "dispatch", "fetch")


def ask(name: str, prompt: list[int], **sampling: Any) -> Request:
    sampling = {"max_tokens": 6, "ignore_eos": True, **sampling}
    return Request(
        request_id=name, prompt_token_ids=tuple(prompt), sampling=SamplingParams(**sampling)
    )


def at(name: str, count: int) -> Callable[[str, int], bool]:
    return lambda called, n: (called, n) == (name, count)


def after(token: int, num: int) -> list[int]:
    return [(token + 1 + k) % VOCAB_SIZE for k in range(num)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 2, 3, 6, 9])
def test_a_broken_step_fails_its_requests_and_no_others(name: str, count: int) -> None:
    inner = FakeExecutor()
    engine = fake_engine(executor=FaultyExecutor(inner, at(name, count)))
    for i in range(12):  # of which eight run at once
        add(engine, ask(f"r{i}", [10 * i + 1, 10 * i + 5], max_tokens=2 + i % 4))
    ends = run_out(engine)
    reasons = Counter(ends.reasons.values())
    assert set(reasons) == {"error", "length"}
    assert inner.num_resets == 2
    for i in range(12):
        expected = after(10 * i + 5, 2 + i % 4)
        if ends.reasons[f"r{i}", 0] == "length":
            assert ends.tokens[f"r{i}", 0] == expected
        else:
            assert ends.errors[f"r{i}", 0] == (
                "the step failed: RuntimeError('the device is on fire')"
            )
            got = ends.tokens[f"r{i}", 0]
            assert got == expected[: len(got)] != expected
    stats = engine.stats()
    assert (stats.num_finished, stats.num_failed) == (reasons["length"], reasons["error"])
    add(engine, ask("later", [200]))
    assert run_out(engine).tokens["later", 0] == after(200, 6)


def test_what_waited_and_what_was_in_neither_step_goes_on() -> None:
    """With 16 tokens a step, the third prompt has not begun when the first step breaks."""
    engine = fake_engine(executor=FaultyExecutor(FakeExecutor(), at("dispatch", 1)))
    for name in "abc":
        add(engine, ask(name, [ord(name)] * 14))
    assert run_out(engine).reasons == {("a", 0): "error", ("b", 0): "error", ("c", 0): "length"}


def test_prefixes_computed_before_a_fault_are_not_found() -> None:
    prompt = list(range(20, 35))
    engine = fake_engine(executor=FaultyExecutor(FakeExecutor(), at("dispatch", 20)))
    cached = []
    for name in ("first", "again", "breaks", "after"):
        salt = "of another" if name == "breaks" else ""
        add(engine, replace(ask(name, prompt, max_tokens=8), cache_salt=salt))
        while engine.has_work:
            cached += [(name, e.finish.num_cached_tokens) for e in engine.step() if e.finish]
    assert cached == [("first", 0), ("again", 12), ("breaks", 0), ("after", 0)]


@pytest.mark.parametrize("name", NAMES)
def test_the_real_device_starts_again_bit_for_bit(executor: JaxExecutor, name: str) -> None:
    batch = [request(f"r{i}", [i + 3, 50, 60, *range(70, 90)]) for i in range(6)]
    expected = [trace(output) for output in run(make_engine(executor=executor), batch)]
    broken = FaultyExecutor(executor, at(name, 4))
    engine = make_engine(executor=broken)
    failed = run(engine, batch)
    assert any(output.outputs[0].finish_reason == "error" for output in failed)
    assert [trace(output) for output in run(engine, batch)] == expected
    assert broken.counts["reset"] == 1


def test_an_interrupt_passes_through_and_leaves_an_engine_that_works() -> None:
    for name in NAMES:
        broken = FaultyExecutor(FakeExecutor(), at(name, 3), KeyboardInterrupt())
        engine = fake_engine(executor=broken)
        for i in range(12):
            add(engine, ask(f"r{i}", [10 * i + 5]))
        ends = Ends()
        with pytest.raises(KeyboardInterrupt):
            run_out(engine, ends)
        run_out(engine, ends)
        assert len(ends.reasons) == 12
        assert set(ends.reasons.values()) == {"error", "length"}
        add(engine, ask("later", [200]))
        assert run_out(engine).tokens["later", 0] == after(200, 6)


def test_a_device_that_can_not_start_again_is_no_engine() -> None:
    broken = FaultyExecutor(FakeExecutor(), lambda name, n: name in ("dispatch", "reset"))
    engine = fake_engine(executor=broken)
    add(engine, ask("r", [7]))
    with pytest.raises(RuntimeError, match="the device is on fire"):
        engine.step()


def test_a_plan_that_always_fails_breaks_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fake_engine()
    good = engine._scheduler.schedule
    calls: list[int] = []

    def fails(drafts: Any) -> Any:
        calls.append(1)
        if len(calls) == 1 or len(calls) > 20:
            raise RuntimeError("a page has no owner")
        return good(drafts)

    monkeypatch.setattr(engine._scheduler, "schedule", fails)
    add(engine, ask("r", [7], max_tokens=2))
    assert run_out(engine).tokens["r", 0] == after(7, 2)  # once is not for ever
    calls += [1] * 20
    add(engine, ask("s", [7]))
    with pytest.raises(RuntimeError, match="a page has no owner"):
        run_out(engine)


class FragileTokenizer:
    """Knows letters, and has a bug at "x"."""

    special_token_ids: frozenset[int] = frozenset()
    strips_leading_space = False

    def token_bytes(self, token_id: int) -> bytes:
        if token_id == ord("x"):
            raise KeyError("x")
        return bytes([token_id % 256])


def test_a_bug_in_the_text_of_one_sequence_fails_it_alone() -> None:
    fragile: Any = FragileTokenizer()
    engine = fake_engine(tokenizer=fragile)
    for letter in "atu":
        add(engine, ask(letter, [ord(letter)]))
    outputs = {letter: RequestOutput.of(ask(letter, [ord(letter)]), None) for letter in "atu"}
    while engine.has_work:
        for event in engine.step():
            outputs[event.request_id].add(event)
    found = {letter: output.outputs[0] for letter, output in outputs.items()}
    assert (found["a"].text, found["a"].finish_reason) == ("bcdefg", "length")
    for letter, text in (("t", "uvw"), ("u", "vw")):
        assert (found[letter].text, found[letter].finish_reason) == (text, "error")
        assert found[letter].error == "internal error: KeyError('x')"
    assert engine.stats().num_used_pages == 0
    assert (engine.stats().num_finished, engine.stats().num_failed) == (1, 2)


def test_a_bug_in_the_scores_of_one_prompt_fails_it_alone() -> None:
    engine = fake_engine(executor=FaultyExecutor(FakeExecutor(), at("prompt_logprobs", 1)))
    add(engine, ask("scored", [20, 21, 22], prompt_logprobs=1))
    add(engine, ask("not", [30, 31]))
    add(engine, ask("too", [40, 41], prompt_logprobs=1))
    ends = run_out(engine)
    assert ends.reasons == {("scored", 0): "error", ("not", 0): "length", ("too", 0): "length"}
    assert ends.errors["scored", 0] == "internal error: RuntimeError('the device is on fire')"


BUSY = EngineConfig(
    max_model_len=64, groups=full(72), page_size=4, max_num_seqs=32, max_num_batched_tokens=96,
    max_waiting=64,
)  # fmt: skip


def test_ten_thousand_requests_end_once_each_whatever_breaks() -> None:
    rng = random.Random(7)
    inner = FakeExecutor(BUSY)
    chances = {"load": 0.0003, "dispatch": 0.004, "fetch": 0.004, "prompt_logprobs": 0.01}
    broken = FaultyExecutor(inner, lambda name, n: rng.random() < chances.get(name, 0))
    clock = FakeClock()
    engine = fake_engine(BUSY, broken, clock=clock)
    prefixes = [[rng.randrange(3, 200) for _ in range(rng.randint(1, 24))] for _ in range(12)]
    asked: dict[str, Request] = {}
    ends = Ends()
    while len(asked) < 10_000 or engine.has_work:
        while len(asked) < 10_000 and engine.has_room(3) and rng.random() < 0.9:
            prompt = rng.choice(prefixes) + [rng.randrange(3, POISON - 40)] * rng.randint(0, 6)
            if rng.random() < 0.01:
                prompt.append(POISON - rng.randrange(3))
            wanted = Request(
                request_id=f"r{len(asked)}",
                prompt_token_ids=tuple(prompt),
                timeout_s=rng.choice([None, None, None, 40.0]),
                cache_salt=rng.choice("ab"),
                sampling=SamplingParams(
                    max_tokens=rng.randint(1, 20),
                    n=rng.choice([1, 1, 1, 2, 3]),
                    prompt_logprobs=rng.choice([None, None, 1]),
                ),
            )
            add(engine, wanted)
            asked[wanted.request_id] = wanted
        if rng.random() < 0.05 and asked:
            engine.abort(f"r{rng.randrange(max(0, len(asked) - 80), len(asked))}")
        ends.take(engine.step())
        clock.now += 1
    assert set(ends.reasons) == {
        (name, index) for name, each in asked.items() for index in range(each.sampling.n)
    }
    for (name, _), tokens in ends.tokens.items():
        expected = after(asked[name].prompt_token_ids[-1], len(tokens))
        assert tokens == expected, "another sequence's tokens"
    for (name, index), reason in ends.reasons.items():
        if reason == "length":
            assert len(ends.tokens[name, index]) == asked[name].sampling.max_tokens
    stats = engine.stats()
    assert stats.num_finished + stats.num_aborted + stats.num_failed == 10_000
    assert min(stats.num_finished, stats.num_aborted, stats.num_failed) > 100
    assert min(stats.num_preemptions, stats.num_prefix_hits) > 100
    assert inner.num_resets > 10
    assert (stats.num_used_pages, stats.num_running, stats.num_waiting) == (0, 0, 0)
