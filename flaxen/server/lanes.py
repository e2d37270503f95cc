"""Runs work that may take long on few threads with a bounded queue, so that it delays nobody else.

Deliberately does not know what the work is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from flaxen.server.errors import ApiError

_T = TypeVar("_T")


class Lane:
    """Threads for one kind of work, with a bounded queue that refuses more work. Final.

    A lane has its own threads, so that asyncio's default ones, which write uploads, stay free.

    Args:
      what: the name of the work in errors.
      num_threads: how many pieces of work run at once.
      max_waiting: how many pieces of work may wait for a thread.
    """

    def __init__(self, what: str, *, num_threads: int, max_waiting: int) -> None:
        self._what = what
        self._max_open = num_threads + max_waiting
        self._num_open = 0  # work that runs or waits, and whose caller still waits
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix="flaxen-lane")

    async def run(self, work: Callable[[], _T]) -> _T:
        """Runs the work on one of the threads. Work that is cancelled before its turn never runs.

        Raises:
          ApiError: 429, the queue is full.
        """
        if self._num_open >= self._max_open:
            raise ApiError(
                429,
                f"too many requests wait for {self._what}: {self._num_open} do, the most this "
                "server keeps; try again later",
                code="queue_full",
                type="rate_limit_error",
                headers={"retry-after": "1"},
            )
        self._num_open += 1
        try:
            return await asyncio.wrap_future(self._executor.submit(work))
        finally:
            self._num_open -= 1


@contextlib.asynccontextmanager
async def deadline(what: str, timeout_s: float) -> AsyncIterator[None]:
    """Limits the time of the block inside, including the wait for its turn.

    Raises:
      ApiError: 503, the block did not finish in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise ApiError(
            503,
            f"{what} was not done within {timeout_s:g} seconds, with the wait for a turn: the "
            "server is busy with other requests, or this one is very long; try again later, or "
            "send less at once",
            code="busy",
            type="server_error",
            headers={"retry-after": "1"},
        ) from None
