"""A request is checked once, by its caller; what changed until the engine takes it has a type."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from flaxen.engine.async_engine import AsyncEngine
from flaxen.engine.core import Engine
from flaxen.engine.stepped import SteppedEngine
from flaxen.protocol import (
    FieldError,
    FinishReason,
    Request,
    RequestIdInUseError,
    SamplingParams,
    UnknownAdapterError,
)
from tests.engine.fakes import FakeExecutor, add, fake_engine, run_out
from tests.engine.test_adapters import CONFIG, ask, engine_with, said, weights
from tests.engine.test_async_engine import ask as ask_async
from tests.engine.test_async_engine import read, with_engine


def test_a_request_is_checked_once_whatever_n_is() -> None:
    executor = FakeExecutor(CONFIG)
    engine = fake_engine(CONFIG, executor)
    checked = engine.check(ask("r", None, n=7))
    assert executor.num_checks == 1
    engine.add(checked)
    assert len(run_out(engine).tokens) == 7
    assert executor.num_checks == 1


def test_it_is_checked_in_the_callers_thread() -> None:
    threads: list[threading.Thread] = []

    class Executor(FakeExecutor):
        def row_settings(self, request: Request) -> SamplingParams:
            threads.append(threading.current_thread())
            return FakeExecutor.row_settings(self, request)

    async def test(engine: AsyncEngine) -> None:
        await read(engine.submit(ask_async("r", [7], n=3)))
        with pytest.raises(FieldError, match="n must be at most"):
            engine.submit(ask_async("s", [7], n=1000))

    with_engine(test, Executor())
    assert threads == [threading.current_thread()]


def test_a_check_leaves_nothing_in_the_engine() -> None:
    engine = engine_with(1)
    for _ in range(3):
        engine.check(ask("r", "a1"))
    assert not engine.has_work
    assert engine.stats().num_waiting == 0


def test_its_adapter_serves_it_also_when_it_was_unloaded_since() -> None:
    engine = engine_with(1)
    checked = engine.check(ask("r", "a1"))
    engine.adapters.unload("a1")
    engine.adapters.load("a1", weights(5))
    engine.add(checked)
    add(engine, ask("s", "a1"))
    tokens = run_out(engine).tokens
    assert (tokens["r", 0], tokens["s", 0]) == (said(1), said(5))


def test_a_trainers_stack_that_came_or_went_since_decides() -> None:
    engine = engine_with(1, 2)
    before = [engine.check(ask(f"r{alpha}", f"a{alpha}")) for alpha in (1, 2)]
    engine.set_adapter_stack(("a1",), [weights(7)], None)
    engine.add(before[0])
    with pytest.raises(UnknownAdapterError, match="no adapter 'a2': loaded are 'a1'"):
        engine.add(before[1])
    during = engine.check(ask("s", "a1"))
    assert run_out(engine).tokens == {("r1", 0): said(7)}
    engine.set_adapter_stack((), None, None)
    with pytest.raises(UnknownAdapterError, match="there is no adapter 'a1': loaded are none"):
        engine.add(during)
    assert not engine.has_work


def test_the_reader_is_told_by_type_that_its_adapter_is_gone() -> None:
    """The engine's thread takes the request only after the stack that had it has ended."""

    async def test(engine: AsyncEngine) -> None:
        engine.set_adapter_stack(("a1",), [weights(7)], None)
        with _busy(engine):
            stream = engine.submit(ask("r", "a1"))
            engine._engine.set_adapter_stack((), None, None)
        with pytest.raises(UnknownAdapterError, match="there is no adapter 'a1'"):
            await read(stream)
        assert (await read(engine.submit(ask("r", None))))[1] == ["length"]  # the id is free

    with_engine(test, FakeExecutor(CONFIG), CONFIG)


@contextmanager
def _busy(engine: AsyncEngine) -> Iterator[None]:
    """The engine's thread is between two steps, and takes nothing before the block ends."""
    entered, left = threading.Event(), threading.Event()

    def wait(_: SteppedEngine) -> None:
        entered.set()
        left.wait()

    caller = threading.Thread(target=engine.between_steps, args=(wait,))
    caller.start()
    entered.wait()
    yield
    left.set()
    caller.join()


def test_an_id_in_use_has_a_type() -> None:
    engine = fake_engine(CONFIG)
    first, second = (engine.check(ask("r", None)) for _ in range(2))
    engine.add(first)
    with pytest.raises(RequestIdInUseError, match="request id 'r' is in use: give another"):
        engine.add(second)
    run_out(engine)
    engine.add(second)
    assert run_out(engine).tokens == {("r", 0): said(0)}


def _ends(engine: Engine, request_id: str) -> tuple[FinishReason, int]:
    while engine.has_work:
        for event in engine.step():
            if event.request_id == request_id and event.finish is not None:
                return event.finish.reason, event.finish.num_cached_tokens
    raise AssertionError(f"{request_id} has not ended")


@pytest.mark.parametrize("reason", [FinishReason.IMPOSSIBLE, FinishReason.ERROR])
def test_only_what_is_not_finite_spoils_the_prefix_cache(reason: FinishReason) -> None:
    last = 10 + len(ask("r", None).prompt_token_ids) - 1 + 2  # the second token it samples
    if reason is FinishReason.IMPOSSIBLE:
        executor = FakeExecutor(CONFIG, poison=None, dead_end=last)
    else:
        executor = FakeExecutor(CONFIG, poison=last)
    engine = fake_engine(CONFIG, executor)
    add(engine, ask("r", None))
    assert _ends(engine, "r") == (reason, 0)
    assert engine.stats().num_failed == 1
    add(engine, ask("again", None))
    assert _ends(engine, "again") == (reason, 8 if reason is FinishReason.IMPOSSIBLE else 0)
