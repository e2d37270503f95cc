"""Work that may take long, kept from holding up everybody else: few threads, and a short queue.

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
    """Threads for one kind of work, and a queue before them that refuses what is too much. Final.

    The threads are its own: asyncio's default ones, which write uploads to disk, stay free.

    Args:
      what: the work, as errors call it.
      num_threads: pieces of work that run at once.
      max_waiting: pieces of work that may wait for a thread.
    """

    def __init__(self, what: str, *, num_threads: int, max_waiting: int) -> None:
        self._what = what
        self._max_open = num_threads + max_waiting
        self._num_open = 0  # that run or wait, and whose caller still waits for them
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix="flaxen-lane")

    async def run(self, work: Callable[[], _T]) -> _T:
        """Runs the work on one of the threads. Cancelled before its turn, it never runs.

        Raises:
          ApiError: 429, too much waits already.
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
    """Ends what is inside after so many seconds, those that it waits for its turn included.

    Raises:
      ApiError: 503, it was not done in time.
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
