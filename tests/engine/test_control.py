"""Pauses, sleep and other weights, with an executor whose tokens are computed by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from flaxen.engine.async_engine import AsyncEngine
from flaxen.engine.control import EngineControl, PauseMode, Tag
from tests.engine.fakes import fake_engine
from tests.engine.test_async_engine import LONG, SlowExecutor, ask, read, until

WEIGHTS = {"two": 2, "three": 3}  # what the fake adds to a token
MANY = 400  # tokens
SLOW_S = 0.02  # of a step, while a test does something before the last of them


def read_weights(source: str) -> int:
    if source not in WEIGHTS:
        raise ValueError(f"there is no {source}")
    return WEIGHTS[source]


def controlled(
    test: Callable[[AsyncEngine, EngineControl], Coroutine[Any, Any, None]],
    executor: SlowExecutor | None = None,
) -> None:
    executor = executor or SlowExecutor()

    async def work() -> None:
        with AsyncEngine(fake_engine(LONG, executor), compile_after_s=60) as engine:
            await asyncio.wait_for(
                test(engine, EngineControl(engine, read_weights, "two", lambda: None)), 60
            )

    asyncio.run(work())


def counted(step: int, num: int, start: int = 5) -> list[int]:
    return [(start + step * i) % 300 for i in range(1, num + 1)]


@pytest.mark.parametrize("sleeps", [False, True])
@pytest.mark.parametrize("mode", list(PauseMode))
def test_requests_end_wait_or_are_aborted(mode: PauseMode, sleeps: bool) -> None:
    executor = SlowExecutor()

    async def test(engine: AsyncEngine, control: EngineControl) -> None:
        executor.step_s = 0 if mode is PauseMode.WAIT else SLOW_S
        first = asyncio.create_task(read(engine.submit(ask("first", [5], max_tokens=MANY))))
        await until(lambda: engine.stats().num_generated_tokens > 3)
        if sleeps:
            await asyncio.to_thread(control.sleep, mode, keeps_weights=True)
        else:
            await asyncio.to_thread(control.pause, mode)
        executor.step_s = 0
        made = engine.stats().num_generated_tokens
        if mode is not PauseMode.KEEP:
            await first
        later = asyncio.create_task(read(engine.submit(ask("later", [5], max_tokens=3))))
        leaving = engine.submit(ask("leaving", [5]))
        await asyncio.sleep(0.05)
        await leaving.aclose()
        await until(lambda: engine.stats().num_waiting + engine.stats().num_running <= 2)
        assert control.is_paused
        assert control.is_sleeping is sleeps
        assert not later.done()
        assert engine.stats().num_generated_tokens == made
        if sleeps:
            await asyncio.to_thread(control.wake_up, list(Tag))
        else:
            control.resume()
        assert await later == (counted(1, 3), ["length"])
        tokens, [reason] = await first
        assert reason == ("abort" if mode is PauseMode.ABORT else "length")
        assert tokens == counted(1, len(tokens))
        assert (len(tokens) == MANY) is (mode is not PauseMode.ABORT)
        assert not control.is_paused

    controlled(test, executor)


def test_weights_change_between_requests_or_within_a_paused_one() -> None:
    executor = SlowExecutor()

    async def test(engine: AsyncEngine, control: EngineControl) -> None:
        first = asyncio.create_task(read(engine.submit(ask("first", [5], max_tokens=MANY))))
        await until(lambda: engine.stats().num_generated_tokens > 3)
        update: dict[str, Any] = {"aborts": False, "stays_paused": False}
        version = await asyncio.to_thread(control.update_weights, "three", 7, **update)
        assert (await first)[0] == counted(1, MANY)
        assert version == engine.stats().weights_version == 7
        executor.step_s = SLOW_S
        second = asyncio.create_task(read(engine.submit(ask("second", [5], max_tokens=MANY))))
        await until(lambda: engine.stats().num_generated_tokens > MANY + 3)
        await asyncio.to_thread(control.pause, PauseMode.KEEP)
        executor.step_s = 0
        num = engine.stats().num_generated_tokens - MANY
        assert await asyncio.to_thread(control.update_weights, "two", None, **update) == 8
        assert control.is_paused
        control.resume()
        tokens, _ = await second
        assert tokens[: num - 1] == counted(3, num - 1)
        assert tokens[-9:] == counted(2, 9, start=tokens[-10])
        with pytest.raises(ValueError, match="there is no four"):
            await asyncio.to_thread(control.update_weights, "four", None, **update)
        assert not control.is_paused
        assert await read(engine.submit(ask("third", [5], max_tokens=2))) == (
            counted(2, 2),
            ["length"],
        )

    controlled(test, executor)


def test_weights_that_were_freed_come_from_where_they_came_last() -> None:
    async def test(engine: AsyncEngine, control: EngineControl) -> None:
        await asyncio.to_thread(
            control.update_weights, "three", None, aborts=True, stays_paused=True
        )
        control.resume()
        await asyncio.to_thread(control.sleep, PauseMode.WAIT, keeps_weights=False)
        waiting = asyncio.create_task(read(engine.submit(ask("waiting", [5], max_tokens=2))))
        await asyncio.to_thread(control.wake_up, [Tag.WEIGHTS])
        assert control.is_sleeping
        control.resume()  # ends a pause, and no sleep
        assert control.is_paused
        await asyncio.to_thread(control.wake_up, [Tag.KV_CACHE])
        assert await waiting == (counted(3, 2), ["length"])
        assert engine.stats().weights_version == 1

    controlled(test)


def test_an_engine_stops_in_a_pause() -> None:
    async def test(engine: AsyncEngine, control: EngineControl) -> None:
        first = asyncio.create_task(read(engine.submit(ask("first", [5], max_tokens=MANY))))
        await until(lambda: engine.stats().num_generated_tokens > 3)
        await asyncio.to_thread(control.pause, PauseMode.KEEP)
        held = asyncio.create_task(read(engine.submit(ask("held", [5]))))
        await engine.close(drain_s=30)
        assert (await first)[1] == (await held)[1] == ["abort"]

    controlled(test)
