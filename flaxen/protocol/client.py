"""What a client sees of an engine: its model, its statistics, and what can be asked of it.

Standard library only.
"""

from __future__ import annotations

import abc
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from flaxen.protocol.adapters import AdapterInfo, AdapterSource, AdapterWeights
from flaxen.protocol.events import TokenEvent
from flaxen.protocol.requests import Request


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a client must know of the model that an engine serves."""

    name: str
    vocab_size: int
    max_model_len: int  # tokens, prompt and output together
    max_logprobs: int  # the most that `logprobs` and `prompt_logprobs` may ask for
    eos_token_ids: tuple[int, ...]
    created: int  # seconds since 1970
    # Fields of SamplingParams, for requests that do not say.
    default_sampling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """Counters since the start, and gauges of this moment."""

    num_running: int
    num_waiting: int
    num_pages: int  # of all cache groups
    num_used_pages: int  # owned by a sequence; pages that only the prefix cache holds are free
    kv_cache_usage: float  # share of the cache's bytes in used pages
    sum_slots_allocated: int  # slots of the used pages, summed over the steps
    sum_slots_held: int  # those of them that hold a token, summed over the steps
    num_preemptions: int
    num_prefix_queries: int  # prompt tokens looked up
    num_prefix_hits: int  # prompt tokens found
    num_prompt_tokens: int  # computed or found
    num_generated_tokens: int
    num_steps: int
    num_finished: int  # requests; finished + aborted + failed is all that ended
    num_aborted: int
    num_failed: int
    max_loras: int = 0  # adapters that can run at once; 0: the engine serves none
    running_adapters: tuple[str, ...] = ()  # names of those that sequences run with
    waiting_adapters: tuple[str, ...] = ()  # names of those that sequences wait with
    num_adapter_loads: int = 0  # from the host's memory to the device
    num_draft_tokens: int = 0  # verified
    num_accepted_tokens: int = 0  # of these, those that were right


class TokenEvents(AsyncIterable[TokenEvent], Protocol):
    """The events of one request, as they come. Whoever stops reading before the end closes it."""

    async def aclose(self) -> None: ...


class EngineClient(abc.ABC):
    """The engine as its users see it: in this process, remote, or a test's fake."""

    info: ModelInfo

    @abc.abstractmethod
    def submit(self, request: Request) -> TokenEvents:
        """Queues a request, and returns the stream of its events; the last has `finish`.

        The request is queued by this call, not by the first read. Closing the stream, or
        cancelling the task that reads it, aborts the request and frees its pages. Reading it
        raises one of the errors below where the engine changed before it took the request.

        Raises:
          ValueError: the request can't be served as asked (too long, an id outside the vocabulary);
            a FieldError where one of its fields is at fault, an UnknownAdapterError where nobody
            knows its adapter, a RequestIdInUseError.
          EngineBusyError: the queue of waiting sequences is full.
          EngineClosedError: the engine is draining or has stopped.
        """

    @abc.abstractmethod
    def abort(self, request_id: str) -> None:
        """Ends a request early with FinishReason.ABORT; an unknown id is ignored."""

    @abc.abstractmethod
    def load_adapter(
        self, name: str, adapter: AdapterWeights, *, load_inplace: bool = False
    ) -> None:
        """Makes an adapter known by a name: requests may name it from now on. Any thread may call.

        Args:
          name: of requests' `adapter`.
          adapter: its weights; kept, so they must not be changed.
          load_inplace: a known name gets these weights; requests that run keep those they have.

        Raises:
          ValueError: the name is in use, the adapter does not fit the model or the engine's limits,
            or the engine serves no adapters.
        """

    @abc.abstractmethod
    def unload_adapter(self, name: str) -> None:
        """Forgets an adapter: new requests can't name it, and those that have it end with it.

        Of a registered one only the weights leave the memory, and the next request reads them.

        Raises:
          UnknownAdapterError: no adapter has this name.
          ValueError: it can't be unloaded.
        """

    @abc.abstractmethod
    def register_adapter(self, name: str, source: AdapterSource) -> None:
        """Makes an adapter known by a name, whose weights are read when a request first names it.

        They leave the host's memory when the room is needed for others; one that was registered
        under the name before is forgotten. Any thread may call.

        Raises:
          ValueError: the name is that of a loaded adapter, or the engine serves no adapters.
        """

    @abc.abstractmethod
    def remove_adapter(self, name: str) -> None:
        """Forgets an adapter as unload_adapter does, also a registered one.

        Raises:
          UnknownAdapterError, ValueError: as unload_adapter.
        """

    @abc.abstractmethod
    def hold_adapter(self, name: str) -> object:
        """Reads an adapter's weights if they are not in memory: not for a coroutine.

        Returns:
          While this is kept, `submit` need not read them.

        Raises:
          UnknownAdapterError: no adapter has this name.
          ValueError: what was read can't be served.
          OSError: it can't be read.
        """

    @abc.abstractmethod
    def adapters(self) -> tuple[AdapterInfo, ...]:
        """Those known, in the order in which they were loaded."""

    @abc.abstractmethod
    def stats(self) -> EngineStats:
        """A snapshot; cheap enough for each scrape."""

    @abc.abstractmethod
    def check_health(self) -> None:
        """Raises EngineClosedError if the engine can't take requests."""

    @abc.abstractmethod
    async def close(self, drain_s: float = 0.0) -> None:
        """Refuses new requests, lets the open ones run up to `drain_s` seconds, ends the rest."""
