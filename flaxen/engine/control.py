"""What changes an engine for everybody who uses it: pauses, sleep, and other weights.

Deliberately does not know: HTTP, files, how memory is freed.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Collection
from typing import Any, final

from flaxen.engine.async_engine import AsyncEngine


class PauseMode(enum.StrEnum):
    """What becomes of the requests that have not ended when a pause begins."""

    ABORT = "abort"  # they end early
    WAIT = "wait"  # they end first
    KEEP = "keep"  # they stay as they are, and go on afterwards


class Tag(enum.StrEnum):
    """The parts of an engine that sleep."""

    WEIGHTS = "weights"
    KV_CACHE = "kv_cache"


@final
class EngineControl:
    """Pauses an engine, puts it to sleep and gives it other weights. Requests that come meanwhile
    wait until it goes on.

    Each method blocks until it is done: not for a coroutine. It raises EngineClosedError if the
    engine is draining or has stopped.

    Args:
      engine: the engine.
      read_weights: reads weights from a path, for `SteppedEngine.set_params`.
      source: where those come from that it has.
      reclaim: returns freed memory to the system.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        read_weights: Callable[[str], Any],
        source: str,
        reclaim: Callable[[], None],
    ) -> None:
        self._engine, self._read_weights, self._source = engine, read_weights, source
        self._reclaim = reclaim
        self._has_weights = True  # perhaps asleep
        self._one_at_a_time = threading.Lock()
        self._asleep: set[Tag] = set()

    @property
    def is_paused(self) -> bool:
        """Whether requests wait, for any reason."""
        return self._engine.is_held

    @property
    def is_sleeping(self) -> bool:
        """Whether a part of the engine sleeps."""
        return bool(self._asleep)

    def pause(self, mode: PauseMode) -> None:
        """Lets new requests wait until `resume`, and what has begun as the mode says."""
        self._hold("pause", mode)

    def resume(self) -> None:
        """Ends a pause. An engine that sleeps goes on when it is awake."""
        self._engine.release("pause")

    def sleep(self, mode: PauseMode, *, keeps_weights: bool) -> None:
        """Pauses the engine, and frees the memory of its KV cache. Requests that the mode keeps are
        computed again later.

        Args:
          mode: what becomes of the requests that have not ended.
          keeps_weights: if False they are freed too, and read again by `wake_up`. If True an
              accelerator's move to the host's memory.
        """
        with self._one_at_a_time:
            self._hold("sleep", mode)
            self._engine.between_steps(lambda engine: engine.sleep(keeps_weights=keeps_weights))
            self._asleep |= set(Tag)
            self._has_weights &= keeps_weights
            self._reclaim()

    def wake_up(self, tags: Collection[Tag]) -> None:
        """Brings parts back. Once none sleeps, requests go on.

        Raises:
          ValueError: the weights were freed, and what was read in their place is another model.
          OSError: they can't be read again.
        """
        with self._one_at_a_time:
            if Tag.WEIGHTS in tags and not self._has_weights:
                version = self._engine.stats().weights_version
                self._give(self._read_weights(self._source), version)
            elif Tag.WEIGHTS in tags and Tag.WEIGHTS in self._asleep:
                self._engine.between_steps(lambda engine: engine.wake_weights())
            if Tag.KV_CACHE in tags and Tag.KV_CACHE in self._asleep:
                self._engine.between_steps(lambda engine: engine.wake_cache())
            self._woke(tags)

    def update_weights(
        self, source: str, version: int | None, *, aborts: bool, stays_paused: bool
    ) -> int:
        """Serves other weights of the same model. They are read while the old ones serve, and these
        stay if anything is wrong with them.

        In a pause the weights change at once, and what it keeps goes on with the new ones and its
        old keys and values. Otherwise the requests that have begun end first.

        Args:
          source: the path of the files.
          version: of the weights, as in `SteppedEngine.set_params`.
          aborts: end requests early, in place of waiting for them.
          stays_paused: keep the engine paused, until `resume`.

        Returns:
          The version.

        Raises:
          ValueError: the files are not there, are damaged, or are another model's.
          OSError: they can't be read.
        """
        with self._one_at_a_time:
            params = self._read_weights(source)
            is_running = not self._engine.is_held
            if is_running or aborts:
                self._hold("update", PauseMode.ABORT if aborts else PauseMode.WAIT)
            try:
                self._give(params, version)
                if stays_paused and is_running:
                    self._hold("pause", PauseMode.WAIT)
            finally:
                self._engine.release("update")
            self._source = source
            self._woke([Tag.WEIGHTS])
        return self._engine.stats().weights_version

    def _give(self, params: Any, version: int | None) -> None:
        self._engine.between_steps(
            lambda engine: engine.set_params(params, version, are_owned=True)
        )
        self._has_weights = True

    def _woke(self, tags: Collection[Tag]) -> None:
        self._asleep.difference_update(tags)
        if not self._asleep:
            self._engine.release("sleep")

    def _hold(self, reason: str, mode: PauseMode) -> None:
        aborts, freezes = mode is PauseMode.ABORT, mode is PauseMode.KEEP
        self._engine.hold(reason, aborts=aborts, freezes=freezes)
