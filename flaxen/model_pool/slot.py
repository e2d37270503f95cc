"""The state of one model of a pool: whether it is in memory, who uses it and who waits for it.

Deliberately does not know the other models, nor when this one is loaded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

from flaxen.model_pool.served_model import Loaded, ModelState, ServedModel
from flaxen.protocol import EngineBrokenError, EngineClosedError


class ModelLoadError(RuntimeError):
    """A model could not be loaded. Final.

    Args:
      name: the model's.
      reason: why.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"the model {self.name!r} can't be used now: {self.reason}"


class Slot:
    """A model of a pool, and its state. Used in one event loop. Final."""

    def __init__(self, model: ServedModel) -> None:
        self.model = model
        self.counters = model.counters
        self.loaded: Loaded | None = None
        self.num_open = 0  # requests that use it
        self.num_loads = 0
        self.num_failed_loads = 0
        self.last_used_s = 0.0
        self.is_loading = False
        self.is_being_loaded = False  # or room for it is made
        self.is_leaving = False  # it is unloaded once its open requests have ended
        self.waiters: list[asyncio.Future[Loaded]] = []
        self._error: str | None = None  # why its last load failed
        self._failed_s = 0.0

    @property
    def is_usable(self) -> bool:
        """Whether the model is loaded, and a request may use it at once."""
        if self.loaded is None or self.is_leaving:
            return False
        try:
            self.loaded.engine.check_health()
        except EngineBrokenError:  # it is loaded again
            return False
        except EngineClosedError:  # the server drains, and the engine says so to the request
            return True
        return True

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of its adapters: those that are loaded with it, and those that came later."""
        if self.loaded is None:
            return self.model.adapters
        return tuple(each.name for each in self.loaded.engine.adapters())

    @property
    def takes_memory(self) -> bool:
        """Whether its weights are in memory, or on their way there."""
        return self.loaded is not None or self.is_loading

    @property
    def state(self) -> ModelState:
        """The state that clients see."""
        if self.loaded is not None:
            return ModelState.LOADED
        if self.is_loading:
            return ModelState.LOADING
        return ModelState.UNLOADED if self._error is None else ModelState.FAILED

    @property
    def error(self) -> str | None:
        """Why the last load failed; None if it did not."""
        return self._error

    def open_request(self) -> Loaded:
        """Counts a request that uses the model, which is loaded."""
        assert self.loaded is not None, "the caller has asked is_usable"
        self.num_open += 1
        self.last_used_s = time.monotonic()
        return self.loaded

    def end_request(self) -> None:
        """The request of an `open_request` or of a waiter that was served has ended."""
        self.num_open -= 1
        self.last_used_s = time.monotonic()

    def loaded_as(self, loaded: Loaded) -> None:
        """The model is in memory: the requests that wait for it go on."""
        self.loaded, self._error = loaded, None
        self.num_loads += 1
        self.last_used_s = time.monotonic()
        self.counters.started(loaded.engine)
        self.hand_out()

    def hand_out(self) -> None:
        """Gives the model to those that wait for it, if it may be used."""
        if not self.is_usable:
            return
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(self.open_request())

    def unloaded(self) -> Loaded:
        """Takes the model out, which no request uses."""
        assert self.loaded is not None, "only a loaded model is unloaded"
        assert not self.num_open, "a model with open requests stays"
        loaded, self.loaded = self.loaded, None
        return loaded

    def failed(self, error: Exception) -> None:
        """A load has failed: the requests that wait for it fail too."""
        self._error, self._failed_s = _reason(error), time.monotonic()
        self.num_failed_loads += 1
        self.fail_waiters(partial(ModelLoadError, self.model.name, self._error))

    def fail_waiters(self, make_error: Callable[[], Exception]) -> None:
        """Ends the waiting of all requests, each with an error of its own."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(make_error())

    def check_retry(self, retry_s: float) -> None:
        """Raises ModelLoadError for some seconds after a failed load: each takes long."""
        if self._error is not None and time.monotonic() - self._failed_s < retry_s:
            raise ModelLoadError(self.model.name, self._error)

    def why_waiting(self, wait_s: float) -> str:
        """What a request that has waited too long is told."""
        if self.is_loading:
            return f"it is still being loaded after {wait_s:g} seconds; try again later"
        return (
            f"its turn did not come within {wait_s:g} seconds, because the memory for models is in "
            "use by requests of others; try again later"
        )


def _reason(error: Exception) -> str:
    """Why a load failed, for clients: our own errors are written for readers, others are not."""
    if isinstance(error, ValueError | OSError):
        return str(error)
    return f"loading it failed with {type(error).__name__}: the server's log has the cause"
