"""The interface of what computes requests step by step: one engine, or a group of replicas.

Deliberately does not know: threads, HTTP, JAX.
"""

from __future__ import annotations

import abc
from typing import Any

from flaxen.protocol import AdapterInfo, EngineStats, ModelInfo, Request, TokenEvent
from flaxen.scheduling.adapters.store import AdapterStore
from flaxen.scheduling.checked import CheckedRequest
from flaxen.scheduling.config import EngineConfig


class SteppedEngine(abc.ABC):
    """Takes requests and returns token events, one step at a time. Only `check`, `is_open` and
    those that say so may be called by several threads at once.
    """

    config: EngineConfig  # of each replica
    info: ModelInfo
    adapters: AdapterStore
    schedule_s: float  # total seconds spent on planning

    @property
    @abc.abstractmethod
    def capacity(self) -> int:
        """The most sequences that may run or wait."""

    @property
    @abc.abstractmethod
    def has_work(self) -> bool:
        """Whether a request has not ended, or an event has not been returned."""

    @abc.abstractmethod
    def check(self, request: Request) -> CheckedRequest:
        """Checks a request, except for what depends on the current load; `add` takes the result.

        Raises:
          ValueError: the request is invalid; a FieldError if one field is at fault, an
              UnknownAdapterError if its adapter is unknown.
          OSError: the request's adapter can't be read.
        """

    @abc.abstractmethod
    def add(self, checked: CheckedRequest, arrival_s: float | None = None) -> None:
        """Queues a request.

        Args:
          checked: the result of `check`. Its adapter is used even if it was unloaded meanwhile; an
              adapter of a trainer's stack is looked up again by name.
          arrival_s: the time of its arrival on the engine's clock; None is now.

        Raises:
          RequestIdInUseError: an open request has the same id.
          UnknownAdapterError: its adapter was in, or was replaced by, a trainer's stack, and no
              adapter has the name now.
          EngineBusyError: the queue is full.
        """

    @abc.abstractmethod
    def is_open(self, request_id: str) -> bool:
        """Whether a request was added and has not ended. Safe to call from any thread."""

    @abc.abstractmethod
    def has_room(self, num_seqs: int) -> bool:
        """Whether a request of `num_seqs` sequences can be added now."""

    @abc.abstractmethod
    def abort(self, request_id: str) -> None:
        """Ends a request and frees what it owns; an unknown id is ignored."""

    @abc.abstractmethod
    def step(self, *, plans: bool = True) -> list[TokenEvent]:
        """Dispatches the next step, then returns the events of the one before it.

        Args:
          plans: False dispatches none: afterwards nothing runs, and requests rest as they are.

        Raises:
          Exception: the engine is broken: it can't go on, or not end what it can't go on with.
        """

    @abc.abstractmethod
    def warm_up(self) -> bool:
        """Compiles one more program of the step; returns False if none was left. Also for another
        thread than the one that runs steps.
        """

    @abc.abstractmethod
    def set_params(
        self, params: Any, version: int | None = None, *, are_owned: bool = False
    ) -> None:
        """Serves other parameters from the next step on, by reference, without copying them.

        The prefix cache is invalidated; running sequences keep their keys and values. A caller that
        donates these arrays must set others before the next step.

        Args:
          params: parameters with the same tree, shapes and dtypes.
          version: a number for them, which is part of each page's hash, and which each sequence
              ends with; None is one more than before. At the start it is 0.
          are_owned: whether nobody else has them or will donate them, as those of the start: then
              nothing is compiled again.

        Raises:
          ValueError: the tree, a shape or a dtype differs.
        """

    @abc.abstractmethod
    def reset_prefix_cache(self) -> None:
        """Forgets all cached prefixes; running sequences keep what they have."""

    @abc.abstractmethod
    def sleep(self, *, keeps_weights: bool) -> None:
        """Frees the memory of the KV cache, after a `step` without a plan, until `wake_cache`.

        Running sequences are preempted, and computed again later. Until all is awake, no step may
        be planned.

        Args:
          keeps_weights: if True, `wake_weights` has them again, and an accelerator's move to the
              host's memory; if False they are freed, and need `set_params`.
        """

    @abc.abstractmethod
    def wake_weights(self) -> None:
        """Moves weights that `sleep` has kept back to where they compute."""

    @abc.abstractmethod
    def wake_cache(self) -> None:
        """Makes a new, empty KV cache."""

    @abc.abstractmethod
    def set_adapter_stack(self, names: tuple[str, ...], stack: Any, scales: Any) -> None:
        """Serves the adapters of a trainer's stack by reference, without copying them.

        They replace all loaded adapters. An empty `names` ends this and leaves the engine without
        adapters.

        Args:
          names: n names for requests, one for each adapter of the stack.
          stack: a stack [n, ...] float32, as in models/adapters.py.
          scales: [n] float32.

        Raises:
          ValueError: sequences run or wait, or a name occurs twice.
        """

    @abc.abstractmethod
    def known_adapters(self) -> tuple[AdapterInfo, ...]:
        """The adapters that requests may name. Safe to call from any thread."""

    @abc.abstractmethod
    def stats(self) -> EngineStats:
        """The current counters and gauges. Safe to call from any thread."""
