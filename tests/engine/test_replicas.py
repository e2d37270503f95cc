"""Several engines as one, over executors computed by hand: where requests go, what they give."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from flaxen.engine.async_engine import AsyncEngine
from flaxen.engine.core import Engine
from flaxen.engine.replica_choice import ReplicaChoice
from flaxen.engine.replicas import ReplicatedEngine
from flaxen.protocol import EngineBusyError, RequestIdInUseError
from flaxen.scheduling.config import EngineConfig, LoraLimits
from flaxen.scheduling.executor import StepResult
from flaxen.scheduling.plan import StepPlan
from tests.engine.fakes import SMALL, Ends, FakeExecutor, FaultyExecutor, add, fake_engine, run_out
from tests.engine.test_adapters import weights
from tests.engine.test_async_engine import ask, read, with_engine

WITH_LORA = replace(SMALL, lora=LoraLimits(max_loras=2))


def replicated(*executors: Any, config: EngineConfig = SMALL, seed: int = 0) -> ReplicatedEngine:
    """An engine for each executor, with one store of adapters and one source of seeds."""
    seeds = random.Random(seed)
    first = fake_engine(config, executors[0], seed=seeds)
    shared: dict[str, Any] = {"seed": seeds, "adapters": first.adapters}
    others = [fake_engine(config, each, **shared) for each in executors[1:]]
    return ReplicatedEngine([first, *others])


def two(config: EngineConfig = SMALL, **kwargs: Any) -> ReplicatedEngine:
    return replicated(FakeExecutor(config), FakeExecutor(config), config=config, **kwargs)


def prompt(first: int, length: int = 12) -> list[int]:
    return list(range(first, first + length))


def shares(engine: ReplicatedEngine) -> list[int]:
    """The prompt tokens of each replica, computed or found."""
    return [each.num_prompt_tokens for each in engine.stats().replicas]


def test_requests_give_what_one_engine_gives() -> None:
    found = []
    for engine in (fake_engine(), two()):
        for i in range(8):
            add(engine, ask(f"r{i}", prompt(20 * i), n=1 + i % 2))
        found.append(run_out(engine))
    assert found[0].tokens == found[1].tokens
    assert found[0].reasons == found[1].reasons


def test_load_is_spread() -> None:
    engine = two()
    for i in range(8):
        add(engine, ask(f"r{i}", prompt(20 * i)))
    assert [each.num_waiting for each in engine.stats().replicas] == [4, 4]
    run_out(engine)
    assert shares(engine) == [48, 48]
    assert engine.stats().num_prompt_tokens == 96


def test_a_prefix_goes_back_to_its_replica() -> None:
    engine = two()
    for name, first in (("a", 0), ("b", 100)):
        add(engine, ask(name, prompt(first)))
    run_out(engine)
    for i in range(3):
        add(engine, ask(f"again{i}", [*prompt(100), 7 + i]))
        run_out(engine)
    assert [each.num_prefix_hits for each in engine.stats().replicas] == [0, 36]


def test_a_replica_that_has_much_to_do_gets_no_more_for_a_prefix() -> None:
    choice = ReplicaChoice(2, page_size=4, num_pages=100)
    check = fake_engine().check
    chosen = [
        choice.choose(check(ask(f"r{i}", [*prompt(0), i], max_tokens=1)), range(2))
        for i in range(4)
    ]
    assert chosen == [0, 1, 0, 1]  # 14 tokens, and then 2 for each on either side
    choice.ended("r0")
    assert choice.choose(check(ask("last", prompt(50), max_tokens=1)), range(2)) == 0


def test_prompts_with_another_salt_or_adapter_share_nothing() -> None:
    choice, check = ReplicaChoice(2, 4, 100), fake_engine().check
    first = check(ask("a", prompt(0), max_tokens=1))
    assert choice.choose(first, range(2)) == 0
    other = replace(first, request=replace(first.request, request_id="b", cache_salt="tenant"))
    assert choice.choose(other, range(2)) == 1


def test_only_so_many_pages_are_remembered() -> None:
    choice, check = ReplicaChoice(2, 4, num_pages=2), fake_engine().check
    for name in ("a", "b"):  # three pages; of them the first two stay
        assert choice.choose(check(ask(name, prompt(0), max_tokens=1)), [1]) == 1
    choice.ended("a")
    choice.ended("b")
    assert choice.choose(check(ask("c", prompt(0), max_tokens=1)), range(2)) == 1
    choice.ended("c")
    choice.forget()
    assert choice.choose(check(ask("d", prompt(0), max_tokens=1)), range(2)) == 0


def seeds(engine: Engine | ReplicatedEngine) -> list[int]:
    """The seeds that requests get which have none."""
    found: list[int] = []
    engines = engine._replicas if isinstance(engine, ReplicatedEngine) else (engine,)
    for i in range(4):
        add(engine, ask(f"r{i}", prompt(20 * i)))
    waiting = [each for one in engines for each in one._scheduler.waiting()]
    for sequence in sorted(waiting, key=lambda each: each.request_id):
        found.append(sequence.seed)
    return found


def test_a_seed_does_not_depend_on_the_replica() -> None:
    assert seeds(two(seed=3)) == seeds(fake_engine(seed=3))


class SlowExecutor(FakeExecutor):
    """The device of this engine is done only after it was asked so many times."""

    num_asks = 5

    def dispatch(self, plan: StepPlan) -> StepResult:
        self.num_asks = 5
        return FakeExecutor.dispatch(self, plan)

    def is_done(self, handle: StepResult) -> bool:
        self.num_asks -= 1
        return self.num_asks <= 0


def test_a_slow_replica_does_not_hold_up_the_others() -> None:
    engine = replicated(SlowExecutor(), FakeExecutor())
    ends = Ends()
    for name in ("slow", "quick"):
        add(engine, ask(name, prompt(0 if name == "slow" else 100)))
    while ("quick", 0) not in ends.reasons:
        ends.take(engine.step())
    slow, quick = engine.stats().replicas
    assert quick.num_generated_tokens == 5 > slow.num_generated_tokens
    assert run_out(engine, ends).reasons == {("slow", 0): "length", ("quick", 0): "length"}


def test_a_step_that_fails_on_one_replica_fails_no_request_of_another() -> None:
    faulty = FaultyExecutor(FakeExecutor(), lambda name, count: (name, count) == ("dispatch", 1))
    engine = replicated(faulty, FakeExecutor())
    for name, first in (("a", 0), ("b", 100)):
        add(engine, ask(name, prompt(first)))
    assert run_out(engine).reasons == {("a", 0): "error", ("b", 0): "length"}
    assert [each.num_failed for each in engine.stats().replicas] == [1, 0]


def test_a_request_is_aborted_where_it_is_and_its_id_is_in_use_everywhere() -> None:
    engine = two()
    for name, first in (("a", 0), ("b", 100)):
        add(engine, ask(name, prompt(first)))
    with pytest.raises(RequestIdInUseError, match="'b'"):
        add(engine, ask("b", prompt(0)))
    engine.abort("b")
    assert run_out(engine).reasons == {("a", 0): "length", ("b", 0): "abort"}


def test_the_queue_is_full_when_that_of_each_replica_is() -> None:
    engine = two()
    assert engine.capacity == 32
    for i in range(32):
        assert engine.has_room(1)
        add(engine, ask(f"r{i}", prompt(i)))
    assert not engine.has_room(1)
    with pytest.raises(EngineBusyError, match="the queue is full: 16 sequences wait"):
        add(engine, ask("more", prompt(0)))
    assert len(run_out(engine).reasons) == 32


def test_adapters_are_loaded_once_for_all_replicas() -> None:
    engine = two(WITH_LORA)
    engine.adapters.load("three", weights(3))
    for i in range(4):
        request = replace(ask(f"r{i}", prompt(20 * i), max_tokens=2), adapter="three")
        add(engine, request)
    ends = run_out(engine)
    assert ends.tokens["r1", 0] == [35, 39]
    assert engine.stats().num_adapter_loads == 2
    assert [(each.name, each.is_on_device) for each in engine.known_adapters()] == [("three", True)]


def test_parameters_are_given_for_each_replica_and_a_trainers_adapters_are_refused() -> None:
    engine = two()
    engine.set_params([2, 2], version=9)
    assert [each.weights_version for each in engine.stats().replicas] == [9, 9]
    add(engine, ask("a", prompt(0), max_tokens=2))
    assert run_out(engine).tokens["a", 0] == [13, 15]
    with pytest.raises(ValueError, match="2 data replicas need their own parameters each"):
        engine.set_params(2)
    with pytest.raises(ValueError, match="use a mesh with data=1"):
        engine.set_adapter_stack(("a",), ["stack"], [1.0])


def test_the_server_sees_one_engine() -> None:
    async def body(engine: AsyncEngine) -> None:
        streams = [engine.submit(ask(f"r{i}", prompt(10 * i), n=2)) for i in range(6)]
        for stream in streams:
            assert (await read(stream))[1] == ["length", "length"]
        stats = engine.stats()
        assert stats.num_finished == 6
        assert [each.num_finished for each in stats.replicas] == [3, 3]

    with_engine(body, engine=two())
