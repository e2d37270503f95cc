"""Which models are in memory: loaded for requests one at a time, the least recently used out."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from typing import Any

import pytest

from flaxen.model_pool.pool import ModelPool
from flaxen.model_pool.served_model import ModelState
from flaxen.model_pool.slot import ModelLoadError, Slot
from flaxen.protocol import EngineBrokenError, EngineBusyError, EngineClosedError
from tests.model_pool.fake_models import Fakes
from tests.server.clients import run


async def until(condition: Any) -> None:
    deadline_s = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline_s, "it never came true"
        await asyncio.sleep(0.002)


async def touch(pool: ModelPool, *slots: Slot) -> None:
    for slot in slots:
        async with pool.use(slot):
            assert slot.state is ModelState.LOADED


def test_the_least_recently_used_leaves_by_bytes() -> None:
    async def work() -> None:
        fakes = Fakes()
        sizes = {"a": 3, "b": 2, "c": 1, "d": 4}
        pool = fakes.pool(
            *(fakes.model(name, size) for name, size in sizes.items()), budget_bytes=6
        )
        a, b, c, d = pool.slots
        await touch(pool, a, b, c, a)
        assert fakes.log == ["+a", "+b", "+c"]
        assert pool.used_bytes == 6
        await touch(pool, d)  # takes b and c, and that is not enough
        assert fakes.log[3:] == ["-b", "-c", "-a", "+d"]
        assert pool.used_bytes == 4
        await touch(pool, b, a)
        assert fakes.log[7:] == ["+b", "-d", "+a"]
        assert [slot.state.value for slot in pool.slots] == ["loaded"] * 2 + ["unloaded"] * 2
        assert [slot.num_loads for slot in pool.slots] == [2, 2, 1, 1]

    run(work())


def test_a_model_with_open_requests_stays_and_its_new_requests_wait() -> None:
    async def work() -> None:
        fakes = Fakes()
        pool = fakes.pool(fakes.model("a"), fakes.model("b"), budget_bytes=1)
        a, b = pool.slots
        await pool.acquire(a)
        for_b = asyncio.create_task(touch(pool, b))
        await until(lambda: a.is_leaving)
        for_a = asyncio.create_task(touch(pool, a))  # else b would never have its turn
        await asyncio.sleep(0.02)
        assert fakes.log == ["+a"]
        assert not for_a.done()
        pool.release(a)
        await asyncio.gather(for_a, for_b)
        assert fakes.log == ["+a", "-a", "+b", "-b", "+a"]

    run(work())


def test_when_nobody_waits_any_more_the_busy_model_stays() -> None:
    async def work() -> None:
        fakes = Fakes()
        pool = fakes.pool(fakes.model("a"), fakes.model("b"), budget_bytes=1)
        a, b = pool.slots
        await pool.acquire(a)
        for_b = asyncio.create_task(touch(pool, b))
        await until(lambda: a.is_leaving)
        for_a = asyncio.create_task(touch(pool, a))
        await asyncio.sleep(0.01)
        for_b.cancel()  # as when its client leaves
        await for_a
        assert fakes.log == ["+a"]
        assert (a.num_open, b.waiters, b.state) == (1, [], ModelState.UNLOADED)

    run(work())


def test_a_load_whose_requests_have_all_left_is_kept() -> None:
    async def work() -> None:
        fakes = Fakes(gates={"a": threading.Event()})
        pool = fakes.pool(fakes.model("a"))
        (a,) = pool.slots
        waiting = [asyncio.create_task(touch(pool, a)) for _ in range(3)]
        await until(lambda: a.state is ModelState.LOADING)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        fakes.gates["a"].set()
        await until(lambda: a.state is ModelState.LOADED)
        assert a.num_open == 0
        await touch(pool, a)
        assert fakes.log == ["+a"]

    run(work())


def test_loads_are_one_at_a_time_in_the_order_of_requests_and_others_are_answered() -> None:
    async def work() -> None:
        fakes = Fakes(gates={"b": threading.Event()})
        pool = fakes.pool(*map(fakes.model, "abcd"), budget_bytes=9)
        a, b, c, d = pool.slots
        await touch(pool, a)
        waiting = [asyncio.create_task(touch(pool, each)) for each in (b, d, c, b, d)]
        await until(lambda: "b" in fakes.loading)
        await touch(pool, a)
        fakes.gates["b"].set()
        await asyncio.gather(*waiting)
        assert fakes.log == ["+a", "+b", "+d", "+c"]
        assert fakes.most_at_once == 1

    run(work())


def test_a_model_that_stays_is_never_unloaded() -> None:
    async def work() -> None:
        fakes = Fakes()
        pool = fakes.pool(fakes.model("a", stays=True), fakes.model("b"), fakes.model("c"))
        pool.load_at_start(pool.slots[0])
        await touch(pool, *pool.slots, *pool.slots[1:])
        assert fakes.log == ["+a", "+b", "-b", "+c", "-c", "+b", "-b", "+c"]

    run(work())


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (ValueError("the file x.gguf is cut short"), r"'a' can't be used now: the file x.gguf is"),
        (RuntimeError("0x7f"), r"loading it failed with RuntimeError: the server's log has the"),
    ],
)
def test_a_load_that_fails_says_why_and_the_others_go_on(fault: Exception, reason: str) -> None:
    async def work() -> None:
        fakes = Fakes(faults={"a": fault})
        pool = fakes.pool(fakes.model("a"), fakes.model("b"))
        a, b = pool.slots
        waiting = [asyncio.create_task(touch(pool, each)) for each in (a, b, a)]
        first, second, third = await asyncio.gather(*waiting, return_exceptions=True)
        assert second is None
        for error in (first, third):
            assert isinstance(error, ModelLoadError)
            with pytest.raises(ModelLoadError, match=reason):
                raise error
        assert (a.state, a.num_failed_loads, pool.used_bytes) == (ModelState.FAILED, 1, 1)
        del fakes.faults["a"]
        await touch(pool, a)
        assert (a.state, a.error) == (ModelState.LOADED, None)

    run(work())


def test_a_failed_load_is_not_repeated_at_once() -> None:
    async def work() -> None:
        fakes = Fakes(faults={"a": ValueError("no")})
        pool = fakes.pool(fakes.model("a"), retry_s=60)
        for _ in range(3):
            with pytest.raises(ModelLoadError, match="no"):
                await pool.acquire(pool.slots[0])
        assert pool.slots[0].num_failed_loads == 1

    run(work())


def test_requests_wait_in_a_bounded_number_and_time() -> None:
    async def work() -> None:
        fakes = Fakes(gates={"b": threading.Event()})
        pool = fakes.pool(
            fakes.model("a"), fakes.model("b"), budget_bytes=1, max_waiting=2, wait_s=0.2
        )
        a, b = pool.slots
        pool.load_at_start(a)
        await pool.acquire(a)
        waiting = [asyncio.create_task(pool.acquire(b)) for _ in range(2)]
        await until(lambda: len(b.waiters) == 2)
        with pytest.raises(EngineBusyError):
            await pool.acquire(b)
        text = "turn did not come within 0.2 seconds, because the memory for models is in use"
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            with pytest.raises(ModelLoadError, match=text):
                raise error  # type: ignore[misc]
        pool.release(a)
        with pytest.raises(ModelLoadError, match=r"still being loaded after 0\.2 seconds"):
            await pool.acquire(b)
        fakes.gates["b"].set()

    run(work())


def test_a_broken_engine_is_loaded_again() -> None:
    async def work() -> None:
        fakes = Fakes()
        pool = fakes.pool(fakes.model("a"))
        (a,) = pool.slots
        await touch(pool, a)
        fakes.engines["a"].check_health = _break  # type: ignore[method-assign]
        await touch(pool, a)
        assert fakes.log == ["+a", "-a", "+a"]

    run(work())


def _break() -> None:
    raise EngineBrokenError("broken")


def test_closing_ends_what_waits_and_closes_all_engines() -> None:
    async def work() -> None:
        fakes = Fakes(gates={"b": threading.Event()})
        pool = fakes.pool(*map(fakes.model, "abc"), budget_bytes=3)
        a, b, c = pool.slots
        await touch(pool, a)
        waiting = [asyncio.create_task(touch(pool, each)) for each in (b, c)]
        await until(lambda: "b" in fakes.loading)
        closing = asyncio.create_task(pool.close())
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, EngineClosedError)
        with pytest.raises(EngineClosedError, match="shutting down"):
            await pool.acquire(a)
        fakes.gates["b"].set()  # a load that has begun is waited for, and closed
        await closing
        assert fakes.log == ["+a", "-a", "+b", "-b"]

    run(work())


@pytest.mark.parametrize("seed", range(3))
def test_for_any_requests_nobody_loses_its_model_and_memory_is_kept(seed: int) -> None:
    """Many clients, of which some leave while they wait or use a model."""

    async def work() -> None:
        rng = random.Random(seed)
        fakes = Fakes()
        sizes = [rng.randint(1, 4) for _ in range(5)]
        pool = fakes.pool(
            *(fakes.model(str(i), size) for i, size in enumerate(sizes)), budget_bytes=6
        )

        async def client() -> None:
            for _ in range(10):
                slot = rng.choice(pool.slots)
                async with pool.use(slot) as loaded:
                    assert pool.used_bytes <= pool.budget_bytes
                    await asyncio.sleep(rng.random() * 0.002)
                    assert slot.loaded is loaded, "it was unloaded under an open request"
                    assert not fakes.engines[slot.model.name].closed

        clients = [asyncio.create_task(client()) for _ in range(12)]
        for each in rng.sample(clients, 4):
            await asyncio.sleep(rng.random() * 0.01)
            each.cancel()
        for each in clients:
            with contextlib.suppress(asyncio.CancelledError):
                await each
        assert [(slot.num_open, slot.waiters) for slot in pool.slots] == [(0, [])] * 5
        assert fakes.most_at_once == 1
        await pool.close()

    run(work())
