"""The engine as its users see it: its model, its statistics, and its methods.

Standard library only.
"""

from __future__ import annotations

import abc
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from flaxen.protocol.adapters import AdapterInfo, AdapterSource, AdapterWeights
from flaxen.protocol.events import LogprobsMode, TokenEvent
from flaxen.protocol.pooling import PoolingInfo
from flaxen.protocol.requests import Request


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The facts about an engine's model that its users need."""

    name: str
    vocab_size: int
    max_model_len: int  # tokens, prompt and output together
    max_logprobs: int  # the limit of `logprobs` and `prompt_logprobs`
    eos_token_ids: tuple[int, ...]
    created: int  # seconds since 1970
    # Defaults of SamplingParams, for requests that do not set them.
    default_sampling: Mapping[str, Any] = field(default_factory=dict)
    logprobs_mode: LogprobsMode = LogprobsMode.RAW_LOGPROBS  # of output tokens
    takes_predictions: bool = False  # whether Request.prediction_token_ids have an effect
    # How the model pools, if it answers with vectors and not with text; None: it generates.
    pooling: PoolingInfo | None = None


# Bounds of the histogram of steps by their tokens; a step is counted at the first that it is not
# above.
STEP_TOKEN_BOUNDS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


@dataclass(frozen=True, kw_only=True)
class CacheInfo:
    """The sizes of an engine's KV cache."""

    page_size: int  # tokens of a page
    num_tokens: int  # that fit in all
    num_whole: float  # sequences of full length that fit at once
    has_prefixes: bool  # whether prefixes are found in it


@dataclass(frozen=True, kw_only=True)
class StoredPagesStats:
    """The pages outside of the KV cache: counters since the start, and bytes now."""

    host_bytes: int
    disk_bytes: int
    num_host_hits: int  # pages that a prompt found in the host's memory
    num_disk_hits: int  # pages that were read from disk and verified
    num_written: int  # pages that were written to disk
    num_dropped: int  # pages that were not stored: too many at once, or the disk was full
    num_mismatches: int  # pages on disk that were not as they were written


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """Counters since the start, and current gauges."""

    num_running: int
    num_waiting: int
    num_pages: int  # of all cache groups
    # Owned by a sequence; pages that are only in the prefix cache count as free.
    num_used_pages: int
    kv_cache_usage: float  # share of the cache's bytes in used pages
    sum_slots_allocated: int  # slots of the used pages, summed over the steps
    sum_slots_held: int  # the slots of these that hold a token, summed over the steps
    num_preemptions: int
    num_prefix_queries: int  # prompt tokens looked up in the prefix cache
    num_prefix_hits: int  # prompt tokens found in the prefix cache
    num_prompt_tokens: int  # computed or found in the prefix cache
    num_generated_tokens: int
    num_steps: int
    num_finished: int  # requests; finished + aborted + failed is the number of ended ones
    num_aborted: int
    num_failed: int
    max_loras: int = 0  # adapters that can run at once; 0: the engine serves none
    running_adapters: tuple[str, ...] = ()  # names of the running sequences' adapters
    waiting_adapters: tuple[str, ...] = ()  # names of the waiting sequences' adapters
    num_adapter_loads: int = 0  # copies from host memory to the device
    num_draft_tokens: int = 0  # verified
    num_accepted_tokens: int = 0  # the accepted ones of these
    num_drafts: int = 0  # each has one or more draft tokens of a sequence
    accepted_per_pos: tuple[int, ...] = ()  # the accepted tokens by their place in their draft
    num_deferred: int = 0  # of the waiting sequences, those that wait for their adapter's slot
    # Steps by their tokens, prompt tokens and generated ones, in the buckets of STEP_TOKEN_BOUNDS,
    # and one for larger ones; () if none are counted.
    step_sizes: tuple[int, ...] = ()
    sum_step_tokens: int = 0  # the tokens of all steps
    cache: CacheInfo | None = None  # None: the model keeps nothing
    num_stored_hits: int = 0  # prompt tokens whose pages were stored outside of the KV cache
    stored: StoredPagesStats | None = None  # None: pages are stored nowhere else
    weights_version: int = 0  # of the weights that compute now
    # The tokens that each expert got, for each layer that has experts.
    expert_tokens: tuple[tuple[int, ...], ...] = ()
    replicas: tuple[EngineStats, ...] = ()  # of each data replica; () if there is one engine


class TokenEvents(AsyncIterable[TokenEvent], Protocol):
    """The event stream of one request. A reader that stops before the end must close it."""

    async def aclose(self) -> None: ...


class EngineClient(abc.ABC):
    """The engine as its users see it: in this process, remote, or a test's fake."""

    info: ModelInfo

    @abc.abstractmethod
    def submit(self, request: Request) -> TokenEvents:
        """Queues a request and returns its event stream; the last event has `finish`.

        The request is queued by this call, not by the first read. Closing the stream, or
        cancelling the task that reads it, aborts the request and frees its pages. Reading raises
        one of the errors below if the engine changed before it took the request.

        Raises:
          ValueError: the request is invalid (too long, an id outside the vocabulary); a FieldError
              if one field is at fault, an UnknownAdapterError if its adapter is unknown, or a
              RequestIdInUseError.
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
        """Loads an adapter under a name, which requests may use from now on. Safe to call from any
        thread.

        Args:
          name: the name for the field `adapter` of requests.
          adapter: its weights, which must not be changed afterwards.
          load_inplace: replace the weights of a known name; running requests keep the old ones.

        Raises:
          ValueError: the name is in use, the adapter does not fit the model or the engine's limits,
            or the engine serves no adapters.
        """

    @abc.abstractmethod
    def unload_adapter(self, name: str) -> None:
        """Unloads an adapter: new requests can't name it, and running ones finish with it.

        For a registered adapter only the weights are freed, and the next request reads them again.

        Raises:
          UnknownAdapterError: no adapter has this name.
          ValueError: the adapter can't be unloaded.
        """

    @abc.abstractmethod
    def register_adapter(self, name: str, source: AdapterSource) -> None:
        """Registers an adapter under a name; its weights are read when a request first names it.

        The weights are evicted from host memory when others need the space. An adapter that was
        registered under the name before is replaced. Safe to call from any thread.

        Raises:
          ValueError: the name is that of a loaded adapter, or the engine serves no adapters.
        """

    @abc.abstractmethod
    def remove_adapter(self, name: str) -> None:
        """Removes an adapter like unload_adapter, even a registered one.

        Raises:
          UnknownAdapterError, ValueError: as in unload_adapter.
        """

    @abc.abstractmethod
    def hold_adapter(self, name: str) -> object:
        """Reads an adapter's weights if they are not in memory. Blocks: not for a coroutine.

        Returns:
          An object; while the caller keeps it, `submit` need not read the weights.

        Raises:
          UnknownAdapterError: no adapter has this name.
          ValueError: the adapter can't be served.
          OSError: the adapter can't be read.
        """

    @abc.abstractmethod
    def reset_prefix_cache(self) -> None:
        """Forgets all cached prefixes, between two steps. Blocks meanwhile: not for a coroutine.

        Running requests keep what they have.

        Raises:
          EngineClosedError: the engine is draining or has stopped.
        """

    @abc.abstractmethod
    def adapters(self) -> tuple[AdapterInfo, ...]:
        """The known adapters, in the order of loading."""

    @abc.abstractmethod
    def stats(self) -> EngineStats:
        """A snapshot of the statistics; cheap enough for every scrape."""

    @abc.abstractmethod
    def check_health(self) -> None:
        """Raises EngineClosedError if the engine accepts no requests."""

    @abc.abstractmethod
    async def close(self, drain_s: float = 0.0) -> None:
        """Refuses new requests, lets open ones run up to `drain_s` seconds, and aborts the rest."""
