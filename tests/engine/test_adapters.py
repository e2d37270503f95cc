"""Adapters come, go and change while requests run. What they say is computable by hand.

The fake's token after t is t + 1, and t + 1 + alpha with an adapter.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest

from flaxen.engine.async_engine import AsyncEngine
from flaxen.engine.core import Engine
from flaxen.models.adapters import LoraConfig
from flaxen.protocol import AdapterInfo, CacheInfo, Request, SamplingParams
from flaxen.scheduling.config import LoraLimits
from flaxen.weights.adapters.adapter import Adapter
from tests.engine.fakes import SMALL, Ends, FakeExecutor, FaultyExecutor, add, fake_engine, run_out

CONFIG = replace(SMALL, lora=LoraLimits(max_loras=2, max_lora_rank=4))
PROMPT = tuple(range(10, 19))


def weights(alpha: int, rank: int = 1) -> Adapter:
    return Adapter(config=LoraConfig(rank=rank, alpha=float(alpha)), layers=())


def ask(name: str, adapter: str | None, max_tokens: int = 4, **sampling: Any) -> Request:
    sampling = {"ignore_eos": True, **sampling}
    return Request(
        request_id=name, prompt_token_ids=PROMPT, adapter=adapter,
        sampling=SamplingParams(max_tokens=max_tokens, **sampling),
    )  # fmt: skip


def said(alpha: int, num: int = 4) -> list[int]:
    return [PROMPT[-1] + (1 + alpha) * i for i in range(1, num + 1)]


def engine_with(*alphas: int, **kwargs: Any) -> Engine:
    engine = fake_engine(CONFIG, **kwargs)
    for alpha in alphas:
        engine.adapters.load(f"a{alpha}", weights(alpha))
    return engine


def test_adapters_and_the_base_run_together() -> None:
    engine = engine_with(1, 2, 3)
    for name in (None, "a1", "a2", "a3", "a1"):
        add(engine, ask(f"r{engine.stats().num_waiting}", name))
    ends = Ends()
    for _ in range(2):  # 16 tokens each
        ends.take(engine.step())
    stats = engine.stats()
    assert (stats.max_loras, stats.num_adapter_loads) == (2, 2)
    assert (stats.running_adapters, stats.waiting_adapters) == (("a1", "a2"), ("a1", "a3"))
    assert (stats.num_waiting, stats.num_deferred) == (2, 1)  # a1 has a slot, and waits for room
    run_out(engine, ends)
    expected = [said(alpha) for alpha in (0, 1, 2, 3, 1)]
    assert [ends.tokens[f"r{i}", 0] for i in range(5)] == expected
    assert engine.stats().num_adapter_loads >= 3
    assert engine.stats().running_adapters == ()
    stats = engine.stats()
    assert stats.num_deferred == 0
    assert sum(stats.step_sizes) == stats.num_steps
    assert stats.sum_step_tokens == 5 * (9 + 4) - 8  # two pages were found in the cache
    assert stats.cache == CacheInfo(page_size=4, num_tokens=96, num_whole=1.5, has_prefixes=True)


def test_where_adapters_are() -> None:
    engine = engine_with(1, 2, 3)
    add(engine, ask("r", "a2"))
    run_out(engine)
    infos = engine.known_adapters()
    assert [(info.name, info.rank, info.is_on_device) for info in infos] == [
        ("a1", 1, False), ("a2", 1, True), ("a3", 1, False),
    ]  # fmt: skip
    assert isinstance(infos[0], AdapterInfo)


def test_requests_keep_the_adapter_that_they_came_with() -> None:
    engine = engine_with(1)
    add(engine, ask("old", "a1", max_tokens=6))
    ends = Ends()
    ends.take(engine.step())
    engine.adapters.load("a1", weights(5), load_inplace=True)
    add(engine, ask("new", "a1"))
    ends.take(engine.step())
    engine.adapters.unload("a1")
    with pytest.raises(ValueError, match="there is no adapter 'a1': loaded are none"):
        add(engine, ask("late", "a1"))
    run_out(engine, ends)
    assert ends.tokens["old", 0] == said(1, 6)
    assert ends.tokens["new", 0] == said(5)
    assert set(ends.reasons.values()) == {"length"}


def test_prefixes_are_shared_within_one_adapter_only() -> None:
    engine = engine_with(1, 2)

    def num_cached(name: str, adapter: str | None) -> int:
        add(engine, ask(name, adapter, max_tokens=1))
        found = [e.finish.num_cached_tokens for e in drain(engine) if e.finish is not None]
        return found[0]

    assert [num_cached(f"r{a}", a) for a in (None, "a1", "a2")] == [0, 0, 0]
    assert [num_cached(f"s{a}", a) for a in (None, "a1", "a2")] == [8, 8, 8]
    engine.adapters.load("a1", weights(1), load_inplace=True)
    assert [num_cached(f"t{a}", a) for a in (None, "a1", "a2")] == [8, 0, 8]


def drain(engine: Engine) -> list[Any]:
    events: list[Any] = []
    while engine.has_work:
        events += engine.step()
    return events


def test_other_parameters_leave_all_prefixes_behind() -> None:
    engine = engine_with(1)
    for name in ("base", "a1"):
        add(engine, ask(name, None if name == "base" else name))
    run_out(engine)
    add(engine, ask("runs", None, max_tokens=8))
    engine.step()
    engine.set_params(3)
    assert engine.stats().weights_version == 1
    add(engine, ask("new", None))
    add(engine, ask("new a1", "a1"))
    ends = Ends()
    events = drain(engine)
    ends.take(events)
    ended = {e.request_id: e.finish for e in events if e.finish is not None}
    cached = {name: finish.num_cached_tokens for name, finish in ended.items()}
    assert cached == {"runs": 8, "new": 0, "new a1": 0}
    versions = {name: finish.weights_version for name, finish in ended.items()}
    assert versions == {"runs": 0, "new": 1, "new a1": 1}
    assert ends.tokens["new", 0] == said(2)  # steps of 3
    assert ends.tokens["new a1", 0] == said(3)
    with pytest.raises(ValueError, match="the fake's parameters"):
        engine.set_params("other")
    add(engine, ask("again", None))
    run_out(engine, ends)
    assert ends.tokens["again", 0] == said(2)  # those it had
    assert engine.stats().weights_version == 1
    engine.set_params(4, version=70)
    assert engine.stats().weights_version == 70


def test_forgotten_prefixes_are_computed_again() -> None:
    engine = engine_with(1)

    def num_cached(name: str) -> int:
        add(engine, ask(name, None))
        (finish,) = [e.finish for e in drain(engine) if e.finish is not None]
        return finish.num_cached_tokens

    assert (num_cached("first"), num_cached("second")) == (0, 8)
    engine.reset_prefix_cache()
    assert (num_cached("third"), num_cached("fourth")) == (0, 8)
    assert engine.stats().weights_version == 0


def test_a_step_that_was_planned_before_the_last_end_is_no_work() -> None:
    engine = engine_with(1)
    add(engine, ask("r", "a1", max_tokens=9, stop_token_ids=(said(1)[2],)))
    events: list[Any] = []
    while not (events and events[-1].finish is not None):
        events += engine.step()
    assert engine.has_work
    engine.set_adapter_stack(("x",), [weights(3)], None)
    assert not engine.has_work


def test_a_trainers_stack_takes_the_place_of_what_is_loaded() -> None:
    executor = FakeExecutor(CONFIG)
    engine = engine_with(1, executor=executor)
    stack = [weights(3), weights(4), weights(5)]
    add(engine, ask("r", "a1"))
    with pytest.raises(ValueError, match="while sequences run or wait"):
        engine.set_adapter_stack(("x",), stack, None)
    run_out(engine)
    with pytest.raises(ValueError, match="every adapter of a stack needs its own name"):
        engine.set_adapter_stack(("x", "x"), stack, None)
    engine.set_adapter_stack(("x", "y", "z"), stack, None)
    assert [info.name for info in engine.known_adapters()] == ["x", "y", "z"]
    assert all(info.is_on_device for info in engine.known_adapters())
    with pytest.raises(ValueError, match="no adapter 'a1'"):
        engine.check(ask("r", "a1"))
    with pytest.raises(ValueError, match="serves a trainer's stack"):
        engine.adapters.load("a1", weights(1))
    add(engine, ask("y", "y"))
    assert run_out(engine).tokens["y", 0] == said(4)
    assert engine.stats().num_adapter_loads == 1
    engine.set_adapter_stack((), None, None)
    engine.adapters.load("a1", weights(1))
    add(engine, ask("s", "a1"))
    assert run_out(engine).tokens["s", 0] == said(1)


def test_a_failed_load_fails_its_step_and_the_others_start_again() -> None:
    inner = FakeExecutor(CONFIG)
    executor = FaultyExecutor(inner, lambda name, count: (name, count) == ("load_adapter", 2))
    engine = engine_with(1, 2, executor=executor)
    add(engine, ask("first", "a1"))
    ends = Ends()
    ends.take(engine.step())
    ends.take(engine.step())
    add(engine, ask("second", "a2"))
    run_out(engine, ends)
    assert ends.reasons["second", 0] == "error"
    add(engine, ask("third", "a2"))
    add(engine, ask("fourth", "a1"))
    run_out(engine, ends)
    assert (ends.tokens["third", 0], ends.tokens["fourth", 0]) == (said(2), said(1))


def test_an_engine_without_slots_refuses() -> None:
    engine = fake_engine(SMALL)
    with pytest.raises(ValueError, match="no slot could hold this adapter"):
        engine.adapters.load("a", weights(1))
    with pytest.raises(ValueError, match="no slot could hold this adapter"):
        fake_engine(CONFIG).adapters.load("a", weights(1, rank=5))


def test_from_other_threads() -> None:
    async def work() -> None:
        engine = AsyncEngine(fake_engine(CONFIG, FakeExecutor(CONFIG)))
        engine.load_adapter("a1", weights(1))
        stream = engine.submit(ask("r", "a1"))
        engine.unload_adapter("a1")  # it was known when the request came
        assert engine.adapters() == ()
        tokens = [token async for event in stream for token in event.token_ids]
        assert tokens == said(1)
        changer = threading.Thread(target=engine.set_params, args=(2,))
        changer.start()
        await asyncio.to_thread(changer.join)
        stream = engine.submit(ask("s", None))
        assert [token async for event in stream for token in event.token_ids] == said(1)
        with pytest.raises(ValueError, match="the fake's parameters"):
            await asyncio.to_thread(engine.set_params, "other")
        await asyncio.to_thread(engine.reset_prefix_cache)
        await asyncio.to_thread(engine.set_adapter_stack, ("x",), [weights(7)], None)
        stream = engine.submit(ask("t", "x"))
        assert [token async for event in stream for token in event.token_ids] == said(8)
        await engine.close()

    asyncio.run(asyncio.wait_for(work(), 30))
