"""The engine on its thread, by asyncio callers: over an executor computed by hand."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from flaxen.engine.async_engine import AsyncEngine
from flaxen.engine.stepped import SteppedEngine
from flaxen.protocol import (
    EngineBusyError,
    EngineClosedError,
    Request,
    SamplingParams,
    TokenEvent,
)
from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.executor import StepResult
from flaxen.scheduling.plan import StepPlan
from tests.engine.fakes import SMALL, FakeExecutor, FaultyExecutor, fake_engine
from tests.scheduling.groups import full

LONG = replace(SMALL, max_model_len=4096, groups=full(4096))  # room for an output without end


class SlowExecutor(FakeExecutor):
    """Takes `step_s` seconds a step, or waits for `gate` where there is one."""

    step_s = 0.001

    def __init__(self, config: EngineConfig = LONG, gate: threading.Event | None = None) -> None:
        FakeExecutor.__init__(self, config, poison=None)
        self._gate = gate

    def fetch(self, plan: StepPlan, handle: StepResult) -> StepResult:
        if self._gate is None:
            time.sleep(self.step_s)
        else:
            assert self._gate.wait(30)
        return handle


def ask(name: str, prompt: list[int], **sampling: Any) -> Request:
    timeout_s = sampling.pop("timeout_s", None)
    sampling = {"max_tokens": 5, "ignore_eos": True, **sampling}
    return Request(
        request_id=name, prompt_token_ids=tuple(prompt), timeout_s=timeout_s,
        sampling=SamplingParams(**sampling),
    )  # fmt: skip


async def read(stream: AsyncIterator[TokenEvent]) -> tuple[list[int], list[str]]:
    """All tokens, and the reasons of the ends."""
    tokens, reasons = [], []
    async for event in stream:
        tokens += event.token_ids
        if event.finish is not None:
            reasons.append(str(event.finish.reason))
    return tokens, reasons


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        await asyncio.sleep(0.001)


def with_engine(
    test: Callable[[AsyncEngine], Coroutine[Any, Any, None]],
    executor: Any = None,
    config: EngineConfig = LONG,
    engine: SteppedEngine | None = None,
) -> None:
    """Runs a test, then closes the engine; no page may be left, and its thread ends."""

    async def body() -> None:
        before = set(threading.enumerate())
        stepped = engine or fake_engine(config, executor or FakeExecutor(config))
        served = AsyncEngine(stepped)
        try:
            await test(served)
        finally:
            await served.close()
        assert served.stats().num_used_pages == 0
        started = set(threading.enumerate()) - before
        assert "flaxen-engine" not in {thread.name for thread in started}

    asyncio.run(body())


def test_many_streams_at_once() -> None:
    async def test(engine: AsyncEngine) -> None:
        streams = [engine.submit(ask(f"r{i}", [10 * i], n=1 + i % 2)) for i in range(10)]
        for i, (tokens, reasons) in enumerate(await asyncio.gather(*map(read, streams))):
            expected = [10 * i + 1 + k for k in range(5)]
            assert sorted(tokens) == sorted(expected * (1 + i % 2))
            assert reasons == ["length"] * (1 + i % 2)
        assert engine.stats().num_finished == 10

    with_engine(test, config=SMALL)


def test_a_request_runs_before_it_is_read() -> None:
    async def test(engine: AsyncEngine) -> None:
        stream = engine.submit(ask("r", [7]))
        await until(lambda: engine.stats().num_finished == 1)
        assert await read(stream) == ([8, 9, 10, 11, 12], ["length"])
        assert await read(stream) == ([], []), "a stream that has ended stays so"

    with_engine(test)


def test_what_comes_during_a_step_waits() -> None:
    """The step lasts until the gate opens: all that is submitted meanwhile stays in the inbox."""
    gate = threading.Event()

    async def check(engine: AsyncEngine) -> None:
        first = engine.submit(ask("long", [3], max_tokens=3))
        await until(lambda: engine.stats().num_running == 1)
        assert engine.stats().num_waiting == 0
        later = [engine.submit(ask(f"r{n}", [10 * n], n=n)) for n in (1, 3)]
        assert (engine.stats().num_running, engine.stats().num_waiting) == (1, 4)
        gate.set()
        await asyncio.gather(read(first), *map(read, later))
        await until(lambda: engine.stats().num_running == 0)
        assert engine.stats().num_waiting == 0

    with_engine(check, SlowExecutor(gate=gate))


def test_what_is_refused_is_refused_by_submit() -> None:
    async def test(engine: AsyncEngine) -> None:
        with pytest.raises(ValueError, match="outside the vocabulary"):
            engine.submit(ask("r", [7000]))
        with pytest.raises(ValueError, match="a row can't hold these bad words"):
            engine.submit(ask("r", [7], bad_words=("unsupported",)))
        stream = engine.submit(ask("r", [7], max_tokens=None))
        with pytest.raises(ValueError, match="request id 'r' is in use: give another"):
            engine.submit(ask("r", [7]))
        engine.abort("r")
        assert (await read(stream))[1] == ["abort"]
        assert (await read(engine.submit(ask("r", [7]))))[1] == ["length"]

    with_engine(test, SlowExecutor())


def test_closing_a_stream_frees_its_pages() -> None:
    async def test(engine: AsyncEngine) -> None:
        stream: Any = engine.submit(ask("r", [7], n=2, max_tokens=None))
        other = engine.submit(ask("other", [50], max_tokens=None))
        assert (await anext(stream)).token_ids == (8,)
        await stream.aclose()
        await stream.aclose()
        await until(lambda: engine.stats().num_aborted == 1)
        assert engine.stats().num_running == 1
        assert await read(stream) == ([], [])
        engine.abort("other")
        assert (await read(other))[1] == ["abort"]

    with_engine(test, SlowExecutor())


def test_cancelling_the_reader_frees_its_pages() -> None:
    async def test(engine: AsyncEngine) -> None:
        gate.clear()
        task = asyncio.create_task(read(engine.submit(ask("r", [7], max_tokens=None))))
        await until(lambda: engine.stats().num_running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()
        await until(lambda: engine.stats().num_aborted == 1)
        assert engine.stats().num_used_pages == 0

    gate = threading.Event()
    with_engine(test, SlowExecutor(gate=gate))


def test_an_abort_ends_the_stream() -> None:
    async def test(engine: AsyncEngine) -> None:
        stream = engine.submit(ask("r", [7], n=3, max_tokens=None))
        await anext(stream)
        engine.abort("nobody")
        engine.abort("r")
        assert (await read(stream))[1] == ["abort"] * 3
        assert engine.stats().num_used_pages == 0

    with_engine(test, SlowExecutor())


def test_a_timeout_ends_the_stream() -> None:
    async def test(engine: AsyncEngine) -> None:
        began = time.monotonic()
        stream = engine.submit(ask("r", [7], max_tokens=None, timeout_s=0.05))
        events = [event async for event in stream]
        assert time.monotonic() - began >= 0.05
        finish = events[-1].finish
        assert finish is not None
        assert finish.error == "timeout: the request took longer than it was given"

    with_engine(test, SlowExecutor())


def test_a_full_queue_refuses_and_takes_again() -> None:
    async def test(engine: AsyncEngine) -> None:
        streams = [engine.submit(ask(f"r{i}", [7 + i])) for i in range(14)]
        await until(lambda: engine.stats().num_running == 8)  # counted once, queued or running
        with pytest.raises(EngineBusyError, match=r"14 sequences run or wait, and at most 16 may"):
            engine.submit(ask("three", [7], n=3))
        streams.append(engine.submit(ask("two", [7], n=2)))
        with pytest.raises(EngineBusyError, match="the queue is full: 16 sequences"):
            engine.submit(ask("one", [7]))
        gate.set()
        found = await asyncio.gather(*map(read, streams))
        assert [reasons for _, reasons in found] == [["length"]] * 14 + [["length"] * 2]
        again = [engine.submit(ask(f"r{i}", [7 + i], n=8)) for i in range(2)]
        assert [len(reasons) for _, reasons in await asyncio.gather(*map(read, again))] == [8, 8]

    gate = threading.Event()
    config = replace(LONG, groups=full(1024))
    with_engine(test, SlowExecutor(config, gate), config)


def test_close_lets_the_open_ones_run_then_ends_the_rest() -> None:
    async def test(engine: AsyncEngine) -> None:
        short = engine.submit(ask("short", [7]))
        endless = engine.submit(ask("endless", [7], max_tokens=None))
        began = time.monotonic()
        closing = asyncio.create_task(engine.close(drain_s=2.0))
        await asyncio.sleep(0)
        with pytest.raises(EngineClosedError, match="the engine is shutting down: it takes no req"):
            engine.submit(ask("late", [7]))
        with pytest.raises(EngineClosedError, match="shutting down"):
            engine.check_health()
        assert (await read(short))[1] == ["length"]
        assert (await read(endless))[1] == ["abort"]
        await closing
        assert time.monotonic() - began >= 2.0
        assert (engine.stats().num_finished, engine.stats().num_aborted) == (1, 1)

    with_engine(test, SlowExecutor(replace(LONG, max_num_seqs=2)), replace(LONG, max_num_seqs=2))


def test_close_waits_no_longer_than_for_the_last() -> None:
    async def test(engine: AsyncEngine) -> None:
        stream = engine.submit(ask("r", [7]))
        engine.check_health()
        began = time.monotonic()
        await engine.close(drain_s=60)
        assert time.monotonic() - began < 30
        assert await read(stream) == ([8, 9, 10, 11, 12], ["length"])
        await engine.close()

    with_engine(test)


def test_a_broken_step_fails_its_requests_and_the_engine_goes_on() -> None:
    async def test(engine: AsyncEngine) -> None:
        assert (await read(engine.submit(ask("r", [7]))))[1] == ["error"]
        engine.check_health()
        assert (await read(engine.submit(ask("r", [7]))))[1] == ["length"]

    with_engine(test, FaultyExecutor(FakeExecutor(LONG), lambda *call: call == ("fetch", 2)))


def test_a_crash_of_the_thread_fails_all_streams(caplog: pytest.LogCaptureFixture) -> None:
    async def test(engine: AsyncEngine) -> None:
        streams = [engine.submit(ask(f"r{i}", [7], n=2)) for i in range(3)]
        for found in await asyncio.gather(*map(read, streams), return_exceptions=True):
            assert isinstance(found, EngineClosedError)
            assert "the engine broke: RuntimeError('the device is on fire')" in str(found)
        with pytest.raises(EngineClosedError, match="the engine broke"):
            engine.check_health()
        with pytest.raises(EngineClosedError, match="the engine broke"):
            engine.submit(ask("late", [7]))
        engine.abort("r0")
        await engine.close(drain_s=60)

    broken = FaultyExecutor(FakeExecutor(LONG), lambda name, n: name in ("fetch", "reset"))
    with caplog.at_level(logging.CRITICAL):
        with_engine(test, broken)
    assert "the engine broke; every open request fails" in caplog.text


def test_a_reader_whose_loop_is_gone_does_no_harm() -> None:
    engine = AsyncEngine(fake_engine(LONG, SlowExecutor()))

    async def leave() -> None:
        engine.submit(ask("left", [7], max_tokens=50))

    async def stay() -> None:
        assert (await read(engine.submit(ask("r", [7], max_tokens=100))))[1] == ["length"]
        await engine.close()

    asyncio.run(leave())
    asyncio.run(stay())
    assert engine.stats().num_finished == 2


def test_submits_from_several_threads() -> None:
    """Each with a loop of its own, as for several servers over one engine."""
    engine = AsyncEngine(fake_engine(replace(SMALL, max_waiting=100)))
    found: dict[str, list[int]] = {}

    def client(name: str, first: int) -> None:
        async def several() -> None:
            for k in range(20):
                tokens, _ = await read(engine.submit(ask(f"{name}{k}", [first + k])))
                found[f"{name}{k}"] = tokens

        asyncio.run(several())

    threads = [threading.Thread(target=client, args=(n, 40 * i)) for i, n in enumerate("abcd")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(engine.close())
    for i, name in enumerate("abcd"):
        for k in range(20):
            assert found[f"{name}{k}"] == [40 * i + k + 1 + j for j in range(5)]
    assert engine.stats().num_finished == 80
