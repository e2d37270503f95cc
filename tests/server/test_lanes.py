"""A lane is bounded, forgets who left, and its deadline counts the wait."""

from __future__ import annotations

import asyncio
import threading

import pytest

from flaxen.server.errors import ApiError
from flaxen.server.lanes import Lane, deadline
from tests.server.clients import run


def test_work_runs_on_the_lanes_own_threads() -> None:
    async def work() -> set[str]:
        lane = Lane("the test", num_threads=2, max_waiting=10)
        names = [lane.run(lambda: threading.current_thread().name) for _ in range(9)]
        return set(await asyncio.gather(*names))

    names = run(work())
    assert len(names) <= 2
    assert all(name.startswith("flaxen-lane") for name in names)


def test_what_is_too_much_is_refused_and_nothing_else() -> None:
    async def work() -> None:
        lane, gate = Lane("the test", num_threads=1, max_waiting=2), threading.Event()
        waiting = [asyncio.create_task(lane.run(gate.wait)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="too many requests wait for the test: 3 do") as caught:
            await lane.run(gate.wait)
        assert (caught.value.status, caught.value.code) == (429, "queue_full")
        assert caught.value.headers == {"retry-after": "1"}
        gate.set()
        assert await asyncio.gather(*waiting) == [True] * 3
        assert await lane.run(lambda: 5) == 5

    run(work())


def test_who_leaves_makes_room_and_never_has_a_turn() -> None:
    async def work() -> None:
        lane, gate = Lane("the test", num_threads=1, max_waiting=1), threading.Event()
        first = asyncio.create_task(lane.run(gate.wait))
        ran: list[int] = []
        second = asyncio.create_task(lane.run(lambda: ran.append(2)))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        third = asyncio.create_task(lane.run(lambda: ran.append(3)))
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(first, third)
        assert ran == [3]

    run(work())


def test_an_error_of_the_work_is_the_callers() -> None:
    def fail() -> None:
        raise ValueError("of the work")

    async def work() -> None:
        lane = Lane("the test", num_threads=1, max_waiting=0)
        for _ in range(3):  # each leaves room for the next
            with pytest.raises(ValueError, match="of the work"):
                await lane.run(fail)

    run(work())


def test_a_deadline_counts_the_wait_for_a_turn() -> None:
    async def work() -> None:
        lane, gate = Lane("the test", num_threads=1, max_waiting=5), threading.Event()
        first = asyncio.create_task(lane.run(gate.wait))
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match=r"testing was not done within 0.05 seconds") as caught:
            async with deadline("testing", 0.05):
                await lane.run(lambda: None)
        assert (caught.value.status, caught.value.code) == (503, "busy")
        assert caught.value.headers == {"retry-after": "1"}
        gate.set()
        await first
        async with deadline("testing", 5):
            assert await lane.run(lambda: 5) == 5

    run(work())
