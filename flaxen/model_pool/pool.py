"""Which models are in memory: loads one at a time, and unloads the least recently used ones for it.

All methods but `load_at_start` belong to one event loop, so that nothing needs a lock. Deliberately
does not know: HTTP, how a model is loaded, how the budget was divided (decision 0299).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import reduce

from flaxen.model_pool.counters import NOTHING, add_stats
from flaxen.model_pool.served_model import Loaded, ServedModel
from flaxen.model_pool.slot import ModelLoadError, Slot
from flaxen.protocol import EngineBusyError, EngineClosedError, EngineStats

logger = logging.getLogger("flaxen.server")


class ModelPool:
    """The models of a server, in memory or not. Final.

    Args:
      models: at least one. The first is meant by requests that name none.
      budget_bytes: what the models in memory may take together.
      reclaim: returns freed memory to the system, after a model was unloaded.
      max_waiting: the most requests that wait for models.
      wait_s: the most seconds that a request waits for its model.
      retry_s: seconds after a failed load in which the model is not loaded again.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        *,
        budget_bytes: int,
        reclaim: Callable[[], None],
        max_waiting: int = 1024,
        wait_s: float = 600.0,
        retry_s: float = 10.0,
    ) -> None:
        self.budget_bytes = budget_bytes
        self.slots = tuple(Slot(model) for model in models)
        self._reclaim = reclaim
        self._max_waiting, self._wait_s, self._retry_s = max_waiting, wait_s, retry_s
        self._wanted: deque[Slot] = deque()  # with requests that wait, in the order of the first
        self._loader: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()  # a request has ended, or waits no longer
        self._is_closing = False

    @property
    def used_bytes(self) -> int:
        """What the models in memory take, with the one that is being loaded."""
        return sum(each.model.num_bytes for each in self.slots if each.takes_memory)

    def load_at_start(self, slot: Slot) -> None:
        """Loads a model before the server runs. Raises what loading it raises."""
        slot.loaded_as(slot.model.load())

    @contextlib.asynccontextmanager
    async def use(self, slot: Slot) -> AsyncIterator[Loaded]:
        """Keeps a model in memory during the block, as `acquire` does."""
        loaded = await self.acquire(slot)
        try:
            yield loaded
        finally:
            self.release(slot)

    async def acquire(self, slot: Slot) -> Loaded:
        """Returns a model in memory, which stays there until `release`; loads it if need be.

        Raises:
          EngineClosedError: the server is shutting down.
          EngineBusyError: too many requests wait for models.
          ModelLoadError: the model could not be loaded, or not in time.
        """
        self.check_health()
        if slot.is_usable:
            return slot.open_request()
        slot.check_retry(self._retry_s)
        if sum(len(each.waiters) for each in self.slots) >= self._max_waiting:
            raise EngineBusyError("too many requests wait for models to be loaded")
        waiter: asyncio.Future[Loaded] = asyncio.get_running_loop().create_future()
        slot.waiters.append(waiter)
        self._want(slot)
        try:
            async with asyncio.timeout(self._wait_s):
                return await waiter
        except BaseException as error:
            # The model may have been given in the very moment in which the request was ended.
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.release(slot)
            if isinstance(error, TimeoutError):
                raise ModelLoadError(slot.model.name, slot.why_waiting(self._wait_s)) from None
            raise
        finally:
            if waiter in slot.waiters:
                slot.waiters.remove(waiter)
            self._changed.set()

    def release(self, slot: Slot) -> None:
        """Ends a request's use of a model."""
        slot.end_request()
        self._changed.set()

    def check_health(self) -> None:
        """Raises EngineClosedError once the server shuts down."""
        if self._is_closing:
            raise _closed()

    def stats(self) -> EngineStats:
        """The statistics of all models together."""
        return reduce(add_stats, (each.counters.stats() for each in self.slots), NOTHING)

    async def close(self, drain_s: float = 0.0) -> None:
        """Refuses new requests and ends those that wait; closes the engines as EngineClient says.

        A load that has begun is waited for, because it can't be interrupted.
        """
        self._is_closing = True
        for slot in self.slots:
            slot.fail_waiters(_closed)
        self._changed.set()
        await asyncio.gather(
            *(each.loaded.engine.close(drain_s) for each in self.slots if each.loaded is not None)
        )
        if self._loader is not None:
            await self._loader

    def _want(self, slot: Slot) -> None:
        if slot not in self._wanted and not slot.is_being_loaded:
            self._wanted.append(slot)
        if self._loader is None or self._loader.done():
            self._loader = asyncio.get_running_loop().create_task(self._load_wanted())

    async def _load_wanted(self) -> None:
        """Loads the models that requests wait for, one at a time, first come first served."""
        while self._wanted and not self._is_closing:
            slot = self._wanted.popleft()
            slot.is_being_loaded = True
            try:
                if await self._make_room(slot):
                    await self._load(slot)
            finally:
                slot.is_being_loaded = False
                for each in self.slots:
                    each.is_leaving = False
                    each.hand_out()  # requests that came while it was about to leave, and it stayed
            if slot.waiters:  # they came after it had failed
                self._wanted.append(slot)

    async def _make_room(self, slot: Slot) -> bool:
        """Unloads models until one more fits. Returns False if no request waits for it any more."""
        while slot.waiters and not self._is_closing and not slot.is_usable:
            leaving = slot if slot.loaded is not None else self._next_to_leave(slot)
            if leaving is None:
                return True
            leaving.is_leaving = True  # its new requests wait, so that it becomes idle
            if leaving.num_open == 0:
                await self._unload(leaving)
                leaving.is_leaving = False
            else:
                self._changed.clear()
                await self._changed.wait()
        return False

    def _next_to_leave(self, slot: Slot) -> Slot | None:
        """The model to unload next; None if there is room."""
        if self.used_bytes + slot.model.num_bytes <= self.budget_bytes:
            return None
        found = [each for each in self.slots if each.loaded is not None and not each.model.stays]
        # An idle one first: a model with open requests is in use now.
        return min(found, key=lambda each: (each.num_open > 0, each.last_used_s), default=None)

    async def _load(self, slot: Slot) -> None:
        start_s = time.monotonic()
        name = slot.model.name
        slot.is_loading = True
        try:
            loaded = await asyncio.to_thread(slot.model.load)
        except Exception as error:  # whatever a library raises: the other models go on
            slot.failed(error)
            logger.exception("the model %(model)s can't be loaded", {"model": name})
            await asyncio.to_thread(self._reclaim)
            return
        finally:
            slot.is_loading = False
        if self._is_closing:
            await loaded.engine.close()
            return
        slot.loaded_as(loaded)
        seconds = round(time.monotonic() - start_s, 3)
        extra = {"seconds": seconds, "models_memory_bytes": self.used_bytes}
        logger.info("loaded the model %(model)s", {"model": name}, extra=extra)

    async def _unload(self, slot: Slot) -> None:
        loaded = slot.unloaded()
        await loaded.engine.close()
        slot.counters.ended()
        del loaded
        await asyncio.to_thread(self._reclaim)
        extra = {"models_memory_bytes": self.used_bytes}
        logger.info("unloaded the model %(model)s", {"model": slot.model.name}, extra=extra)


def _closed() -> EngineClosedError:
    return EngineClosedError("the server is shutting down: it takes no requests")
