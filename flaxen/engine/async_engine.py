"""The engine on its own thread, for asyncio callers: the EngineClient in this process.

Deliberately does not know: HTTP, JAX, how a step is computed.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from flaxen.engine.arrivals import Arrivals
from flaxen.engine.background_compiler import BackgroundCompiler
from flaxen.engine.between_steps import BetweenSteps, make_calls
from flaxen.engine.event_stream import EventStream, call_soon, put_all
from flaxen.engine.stats import with_waiting
from flaxen.engine.stepped import SteppedEngine
from flaxen.engine.unread_limit import UnreadLimit
from flaxen.protocol import (
    AdapterInfo,
    AdapterSource,
    AdapterWeights,
    EngineBrokenError,
    EngineBusyError,
    EngineClient,
    EngineClosedError,
    EngineStats,
    Request,
    RequestIdInUseError,
    TokenEvent,
    UnknownAdapterError,
)

_LOG = logging.getLogger(__name__)


class AsyncEngine(EngineClient):
    """Runs an engine on a thread, from construction until `close` or `stop`.

    As a context manager it stops at the end of the block. It also stops at the end of the process,
    which would abort if Python shut down while the thread is inside XLA. From `compile_after_s` on
    it compiles, on another thread, what no request has needed yet.
    """

    def __init__(self, engine: SteppedEngine, *, compile_after_s: float = 1.0) -> None:
        self.info = engine.info
        self._engine = engine
        self._unread_limit = UnreadLimit(engine.config.max_unread_bytes)
        self._changed = threading.Condition()  # guards all below
        self._arrivals = Arrivals()
        self._aborted: list[EventStream] = []
        self._between: BetweenSteps[SteppedEngine] = BetweenSteps()
        self._is_frozen = False  # whether requests that have begun wait too
        self._streams: dict[str, EventStream] = {}
        self._num_open = 0  # sequences that have not ended, over all streams
        self._refuses: EngineClosedError | None = None  # why requests are refused
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="flaxen-engine", daemon=True)
        self._thread.start()
        self._compiler = BackgroundCompiler(
            engine.warm_up, lambda: self._num_open > 0, after_s=compile_after_s
        )
        atexit.register(self.stop)

    def __enter__(self) -> AsyncEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def submit(self, request: Request) -> EventStream:
        checked = self._engine.check(request)  # runs in the caller's thread
        with self._changed:
            if self._refuses is not None:
                raise self._refusal()
            if request.request_id in self._streams:
                raise RequestIdInUseError(request.request_id)
            capacity = self._engine.capacity
            if self._num_open + request.sampling.n > capacity:  # so that Engine.add never refuses
                raise EngineBusyError(
                    f"the queue is full: {self._num_open} sequences run or wait, and at most "
                    f"{capacity} may; try again later"
                )
            stream = EventStream(request, self._abort, self._unread_limit.enforce)
            self._streams[request.request_id] = stream
            self._unread_limit.add(stream)
            self._num_open += request.sampling.n
            self._arrivals.add(checked, time.monotonic())
            self._changed.notify()
        return stream

    def abort(self, request_id: str) -> None:
        with self._changed:
            stream = self._streams.get(request_id)
        if stream is not None:
            self._abort(stream)

    def _abort(self, stream: EventStream) -> None:
        """Ends a stream's request early, but not a later request with the same id."""
        with self._changed:
            if self._streams.get(stream.request_id) is stream:
                self._arrivals.let_in(stream.request_id)
                self._aborted.append(stream)
                self._changed.notify()

    def load_adapter(
        self, name: str, adapter: AdapterWeights, *, load_inplace: bool = False
    ) -> None:
        self._engine.adapters.load(name, adapter, load_inplace=load_inplace)

    def unload_adapter(self, name: str) -> None:
        self._engine.adapters.unload(name)

    def register_adapter(self, name: str, source: AdapterSource) -> None:
        self._engine.adapters.register(name, source)

    def remove_adapter(self, name: str) -> None:
        self._engine.adapters.remove(name)

    def hold_adapter(self, name: str) -> object:
        return self._engine.adapters.find(name)

    def adapters(self) -> tuple[AdapterInfo, ...]:
        return self._engine.known_adapters()

    def set_params(self, params: Any, version: int | None = None) -> None:
        """Like Engine.set_params, between two steps. Blocks meanwhile: not for a coroutine."""
        self.between_steps(lambda engine: engine.set_params(params, version))

    def reset_prefix_cache(self) -> None:
        self.between_steps(lambda engine: engine.reset_prefix_cache())

    def set_adapter_stack(self, names: tuple[str, ...], stack: Any, scales: Any) -> None:
        """Like Engine.set_adapter_stack, between two steps. Blocks meanwhile."""
        self.between_steps(lambda engine: engine.set_adapter_stack(names, stack, scales))

    def between_steps(self, call: Callable[[SteppedEngine], None]) -> None:
        """Calls something with the engine, between two steps. Blocks until it is done."""
        with self._changed:
            if self._refuses is not None:
                raise self._refusal()
            done = self._between.ask(call)
            self._changed.notify()
        done.result()

    @property
    def is_held(self) -> bool:
        """Whether requests that arrive now wait until `release`."""
        return self._arrivals.are_held

    def hold(self, reason: str, *, aborts: bool = False, freezes: bool = False) -> None:
        """Lets requests that arrive from now on wait. Blocks until the others rest.

        Args:
          reason: what `release` is called with.
          aborts: end the others early, as `abort` does; if False, they run to their ends.
          freezes: in place of that, they stay as they are after the current step.
        """
        with self._changed:
            self._arrivals.hold(reason)
            self._aborted += self._streams.values() if aborts else ()

        def set_frozen(engine: SteppedEngine) -> None:
            self._is_frozen = freezes

        self.between_steps(set_frozen)
        with self._changed:
            resting = self._between.wait()
            self._changed.notify()
        resting.result()

    def release(self, reason: str) -> None:
        """Ends a `hold`; after the last one all requests go on."""
        with self._changed:
            self._arrivals.release(reason)
            self._is_frozen &= self._arrivals.are_held
            self._changed.notify()

    def stats(self) -> EngineStats:
        """Like Engine.stats; requests that the engine does not have yet count as waiting."""
        with self._changed:
            added = self._arrivals.requests()
        stats = self._engine.stats()
        # A request that was added since is already in those statistics.
        left = [each for each in added if not self._engine.is_open(each.request.request_id)]
        return with_waiting(stats, left)

    def check_health(self) -> None:
        if self._refuses is not None:
            raise self._refusal()

    async def close(self, drain_s: float = 0.0) -> None:
        self._refuse_requests()
        deadline = time.monotonic() + drain_s
        # What a pause holds would not end meanwhile.
        while self._streams and not self.is_held and self._thread.is_alive():
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.02)
        for thread in self._stop_threads():
            # Not a method of this engine: a worker may hold what it called a moment longer, and
            # whoever drops the engine next wants its memory back.
            await asyncio.to_thread(thread.join)
        atexit.unregister(self.stop)

    def stop(self) -> None:
        """Aborts open requests, and waits until the thread has ended.

        That takes until the current step or compilation is done.
        """
        for thread in self._stop_threads():
            thread.join()
        atexit.unregister(self.stop)

    def _stop_threads(self) -> tuple[threading.Thread, ...]:
        """Aborts open requests, and returns the threads, which then end by themselves."""
        self._refuse_requests()
        with self._changed:
            self._stopping = True
            self._arrivals.let_in()
            self._aborted += self._streams.values()
            self._changed.notify()
        return self._compiler.stop(), self._thread

    def _refuse_requests(self) -> None:
        with self._changed:
            self._refuses = self._refuses or EngineClosedError(
                "the engine is shutting down: it takes no requests"
            )

    def _refusal(self) -> EngineClosedError:
        """Makes a new error each time, because one that is raised again keeps its old traceback."""
        assert self._refuses is not None, "requests are taken"
        return type(self._refuses)(*self._refuses.args)

    def _run(self) -> None:
        """The thread's loop: takes added and aborted requests, runs a step, delivers its events."""
        try:
            while True:
                with self._changed:
                    while not (self._arrivals or self._aborted or self._between or self._runs):
                        self._between.rest()
                        if self._stopping:
                            return
                        self._changed.wait()
                    num_added = len(self._arrivals)
                    aborted, self._aborted = self._aborted, []
                    calls = self._between.take()
                make_calls(calls, self._engine)
                self._take(num_added, aborted)
                if self._engine.has_work:
                    self._hand_out(self._engine.step(plans=not self._is_frozen))
        except Exception as error:  # a bug of ours: no caller may wait for ever
            self._break(error)

    @property
    def _runs(self) -> bool:
        return self._engine.has_work and not self._is_frozen

    def _take(self, num_added: int, aborted: list[EventStream]) -> None:
        for _ in range(num_added):
            checked, arrival_s = self._arrivals.first()  # only this thread removes any
            try:
                self._engine.add(checked, arrival_s)
            # The state changed since the check.
            except (UnknownAdapterError, EngineBusyError) as error:
                self._fail(checked.request.request_id, error)
            with self._changed:
                self._arrivals.remove_first()
        for stream in aborted:
            if self._streams.get(stream.request_id) is stream:  # otherwise it has ended since
                self._engine.abort(stream.request_id)

    def _hand_out(self, events: list[TokenEvent]) -> None:
        """Delivers events, waking each event loop once."""
        batches: dict[asyncio.AbstractEventLoop, list[tuple[EventStream, TokenEvent]]] = {}
        for event in events:
            stream = self._streams[event.request_id]
            batches.setdefault(stream.loop, []).append((stream, event))
            if event.finish is not None:
                with self._changed:
                    self._num_open -= 1
                    stream.num_running -= 1
                    if not stream.num_running:
                        del self._streams[event.request_id]
        for loop, batch in batches.items():
            call_soon(loop, functools.partial(put_all, batch))

    def _fail(self, request_id: str, error: Exception) -> None:
        with self._changed:
            stream = self._streams.pop(request_id)
            self._num_open -= stream.num_running
        call_soon(stream.loop, functools.partial(stream.put, error))

    def _break(self, error: Exception) -> None:
        _LOG.critical("the engine broke; every open request fails", exc_info=error)
        with self._changed:
            self._refuses = EngineBrokenError(f"the engine broke: {error!r}")
            broken = list(self._streams)
            self._arrivals.clear()  # nobody will take them any more
            self._between.fail(self._refusal)
        for request_id in broken:
            self._fail(request_id, self._refusal())
