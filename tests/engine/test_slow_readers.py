"""Clients that read slowly, or not at all: what they have not read is bounded."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from flaxen.engine.async_engine import AsyncEngine
from flaxen.protocol import ReaderTooSlowError, Request, SamplingParams
from flaxen.scheduling.config import EngineConfig
from flaxen.server.generation.engine_streams import EngineStreams
from flaxen.server.metrics import Metrics
from flaxen.server.request_log import Timing
from tests.engine.fakes import SMALL, VOCAB_SIZE, FakeExecutor, by_hand, fake_engine
from tests.scheduling.groups import full

# Few pages: what the pool notes of each when it is freed is no memory of events.
CONFIG = replace(SMALL, page_size=64, max_model_len=1024, groups=full(128), max_num_seqs=8)
NUM_OUT, NUM_TOP = 500, 20


def ask(name: str, n: int = 8, num_out: int = NUM_OUT, logprobs: int | None = NUM_TOP) -> Request:
    sampling = SamplingParams(n=n, max_tokens=num_out, ignore_eos=True, logprobs=logprobs, seed=0)
    return Request(request_id=name, prompt_token_ids=(3,), sampling=sampling)


def with_engine(config: EngineConfig, test: Callable[[AsyncEngine], Awaitable[None]]) -> None:
    async def body() -> None:
        engine = AsyncEngine(fake_engine(config, FakeExecutor(config, poison=None)))
        try:
            await test(engine)
        finally:
            await engine.close()

    asyncio.run(body())


async def idle(engine: AsyncEngine) -> None:
    """Until nothing runs, and what the engine's thread handed out has arrived."""
    while engine.stats().num_running + engine.stats().num_waiting:
        await asyncio.sleep(0.01)
    await asyncio.to_thread(
        engine.between_steps, lambda engine: None
    )  # its thread hands out no more
    await asyncio.sleep(0)  # and the calls that it left to this loop are made


def test_a_reader_who_stands_still_costs_little_and_loses_nothing() -> None:
    """4,000 tokens with the 20 likeliest each: 11 MB as one event each, a tenth of it packed."""

    async def test(engine: AsyncEngine) -> None:
        await idle(engine)
        gc.collect()
        tracemalloc.start()
        stream = engine.submit(ask("slow"))
        await idle(engine)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 250 * 8 * NUM_OUT, "bytes a token"
        found: dict[int, list[int]] = {}
        async for event in stream:
            found.setdefault(event.index, []).extend(event.token_ids)
            assert event.logprobs is not None
            assert event.logprobs[0] == by_hand(event.token_ids[0], NUM_TOP)
            assert event.logprobs[-1] == by_hand(event.token_ids[-1], NUM_TOP)
            assert len(event.logprobs) == len(event.token_ids)
        expected = [(4 + i) % VOCAB_SIZE for i in range(NUM_OUT)]
        assert found == dict.fromkeys(range(8), expected)

    with_engine(CONFIG, test)


def test_the_one_furthest_behind_is_ended_and_nobody_else() -> None:
    async def test(engine: AsyncEngine) -> None:
        behind = engine.submit(ask("behind", n=2))
        little = engine.submit(ask("little", n=1, num_out=100))
        live = engine.submit(ask("live", n=2, logprobs=None))
        tokens = [token async for event in live for token in event.token_ids]
        await idle(engine)
        assert len(tokens) == 2 * NUM_OUT
        assert sum([len(event.token_ids) async for event in little]) == 100
        with pytest.raises(ReaderTooSlowError, match="bytes of this answer wait to be read"):
            await anext(behind)
        with pytest.raises(StopAsyncIteration):
            await anext(behind)
        assert engine.stats().num_aborted == 1
        assert engine.stats().num_used_pages == 0

    with_engine(replace(CONFIG, max_unread_bytes=100_000), test)


def test_what_ended_unread_counts_until_it_is_read() -> None:
    async def test(engine: AsyncEngine) -> None:
        done = engine.submit(ask("done", n=2, num_out=200))  # about 80 kB
        await idle(engine)
        later = engine.submit(ask("later", n=1, num_out=200))
        await idle(engine)
        assert sum([len(event.token_ids) async for event in later]) == 200
        with pytest.raises(ReaderTooSlowError):
            await anext(done)

    with_engine(replace(CONFIG, max_unread_bytes=100_000), test)


def test_an_answer_to_several_prompts_waits_in_the_streams_too() -> None:
    async def test(engine: AsyncEngine) -> None:
        requests = [ask(name, n=1) for name in "ab"]
        streams = EngineStreams(engine, Metrics(engine, "m"), requests, {}, Timing())
        events = streams.events()
        await anext(events)  # and nothing more is read
        await idle(engine)
        with pytest.raises(ReaderTooSlowError):
            async for _ in events:
                pass
        await streams.close()

    with_engine(replace(CONFIG, max_unread_bytes=100_000), test)


def test_a_limit_below_a_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="max_unread_bytes must be at least 1, got 0"):
        replace(SMALL, max_unread_bytes=0)
