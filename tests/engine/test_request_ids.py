"""A request's id is free again once it has ended, and belongs to the next one alone."""

from __future__ import annotations

import asyncio
import logging

import pytest

from flaxen.engine.async_engine import AsyncEngine
from flaxen.protocol import EngineBrokenError
from tests.engine.fakes import FakeExecutor, FaultyExecutor
from tests.engine.test_async_engine import LONG, SlowExecutor, ask, read, until, with_engine


def test_closing_an_ended_stream_does_not_abort_the_next_of_its_id() -> None:
    async def test(engine: AsyncEngine) -> None:
        first = engine.submit(ask("r", [7], max_tokens=1))
        await until(lambda: engine.stats().num_finished == 1 and not engine._streams)
        second = engine.submit(ask("r", [7], max_tokens=300))
        await first.aclose()  # its reader has not read the end
        assert (await read(second))[1] == ["length"]

    with_engine(test, SlowExecutor())


def test_a_broken_engine_says_that_it_broke_and_nothing_waits_in_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(engine: AsyncEngine) -> None:
        stream = engine.submit(ask("r", [7]))
        with pytest.raises(EngineBrokenError, match="the engine broke"):
            await read(stream)
        with pytest.raises(EngineBrokenError, match="on fire"):
            engine.check_health()
        await asyncio.sleep(0)
        assert not engine._arrivals.requests()

    broken = FaultyExecutor(FakeExecutor(LONG), lambda name, n: name in ("dispatch", "reset"))
    with caplog.at_level(logging.CRITICAL):
        with_engine(test, broken)
