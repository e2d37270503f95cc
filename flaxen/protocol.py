"""The words that the front half (server, CLI, LLM) and the engine speak to each other.

Knows: requests, sampling parameters, token events, statistics, the engine's client interface.
Deliberately does not know: JAX, HTTP, models, tokenizers. Standard library only.
"""

from __future__ import annotations

import abc
import enum
import math
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flaxen.protocol_adapters import AdapterInfo, AdapterSource, AdapterWeights

MAX_SEED = 2**63 - 1


class FieldError(ValueError):
    """One field of a request has a wrong value. Final.

    Args:
      field: the field's name in SamplingParams or Request, for whoever knows it by another name.
      message: names the field too, with its value and what may stand there.
    """

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        self.message = message

    def __str__(self) -> str:
        return self.message


def _require(condition: bool, field: str, message: str) -> None:
    if not condition:
        raise FieldError(field, message)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the tokens of one request are chosen. Field names and meanings are vLLM's.

    Raises:
      FieldError: a field is out of its range; the message names it, its value and the range.
    """

    n: int = 1  # sequences to sample from the prompt
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0  # [0, 1]; 1 keeps all, 0 only the likeliest token, as in OpenAI's API
    top_k: int = 0  # 0 or -1 keeps all
    min_p: float = 0.0  # [0, 1], relative to the most likely token
    seed: int | None = None  # sequence i of n uses seed + i
    presence_penalty: float = 0.0  # [-2, 2]
    frequency_penalty: float = 0.0  # [-2, 2]
    repetition_penalty: float = 1.0  # (0, inf); above 1 discourages tokens of prompt and output
    logit_bias: Mapping[int, float] | None = None  # token id -> added to its logit, [-100, 100]
    allowed_token_ids: tuple[int, ...] | None = None  # only these may be sampled
    bad_words: tuple[str, ...] = ()  # never completed by a sampled token
    min_tokens: int = 0  # before which no stop token is sampled and no stop string ends the text
    max_tokens: int | None = 16  # None: up to the model's length
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None  # most likely tokens reported beside each sampled one
    prompt_logprobs: int | None = None  # the same for each prompt token

    def __post_init__(self) -> None:
        for name in ("stop", "bad_words"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, (getattr(self, name),))
        for name in ("stop", "stop_token_ids", "bad_words", "allowed_token_ids"):
            value = getattr(self, name)
            if value is None and name == "allowed_token_ids":
                continue
            is_list = value is None or isinstance(value, Iterable)
            _require(is_list, name, f"{name} must be a list, got {value!r}")
            object.__setattr__(self, name, tuple(value or ()))

        self._check_number("temperature", 0, math.inf)
        self._check_number("top_p", 0, 1)
        self._check_number("min_p", 0, 1)
        self._check_number("presence_penalty", -2, 2)
        self._check_number("frequency_penalty", -2, 2)
        self._check_number("repetition_penalty", 0, math.inf, above=True)
        self._check_int("n", 1)
        self._check_int("top_k", -1)
        self._check_int("min_tokens", 0)
        self._check_int("max_tokens", 1, optional=True)
        self._check_int("logprobs", 0, optional=True)
        self._check_int("prompt_logprobs", 0, optional=True)
        self._check_int("seed", -MAX_SEED, MAX_SEED, optional=True)
        _require(
            self.max_tokens is None or self.min_tokens <= self.max_tokens,
            "min_tokens",
            f"min_tokens must be at most max_tokens ({self.max_tokens}), got {self.min_tokens}",
        )
        for name in ("stop", "bad_words"):
            for word in getattr(self, name):
                _require(
                    isinstance(word, str) and word != "",
                    name,
                    f"{name} must hold strings that are not empty, got {word!r}",
                )
        for name in ("stop_token_ids", "allowed_token_ids"):
            for token_id in getattr(self, name) or ():  # perhaps a whole vocabulary
                if not _is_int(token_id):
                    raise FieldError(name, f"{name} must hold token ids, got {token_id!r}")
        _require(
            self.allowed_token_ids is None or len(self.allowed_token_ids) > 0,
            "allowed_token_ids",
            "allowed_token_ids must name at least one token; leave it out to allow all",
        )
        for token_id, bias in (self.logit_bias or {}).items():
            _require(
                _is_int(token_id),
                "logit_bias",
                f"logit_bias must map token ids, got key {token_id!r}",
            )
            _require(
                _is_number(bias) and -100 <= bias <= 100,
                "logit_bias",
                f"logit_bias of token {token_id} must be in [-100, 100], got {bias!r}",
            )

    def _check_number(self, name: str, low: float, high: float, *, above: bool = False) -> None:
        """Checks a number's range; `above` leaves `low` itself out of it."""
        value = getattr(self, name)
        ok = _is_number(value) and low <= value <= high and not (above and value == low)
        least = f"above {low}" if above else f"at least {low}"
        limits = least if high == math.inf else f"in [{low}, {high}]"
        _require(ok, name, f"{name} must be a number {limits}, got {value!r}")

    def _check_int(
        self, name: str, low: int, high: int | None = None, *, optional: bool = False
    ) -> None:
        value = getattr(self, name)
        if value is None and optional:
            return
        ok = _is_int(value) and value >= low and (high is None or value <= high)
        limits = f"at least {low}" if high is None else f"in [{low}, {high}]"
        _require(ok, name, f"{name} must be a whole number {limits}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt and how to continue it.

    Raises:
      FieldError: the prompt is empty or the timeout is not above 0.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    cache_salt: str = ""  # requests share cached prefixes only with the same salt
    timeout_s: float | None = None  # seconds from submission; then the request is aborted
    adapter: str | None = None  # the name of one that the engine knows; None is the base model

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt_token_ids", tuple(self.prompt_token_ids))
        _require(
            len(self.prompt_token_ids) > 0,
            "prompt_token_ids",
            "the prompt is empty: give at least one token",
        )
        _require(
            self.timeout_s is None or (_is_number(self.timeout_s) and self.timeout_s > 0),
            "timeout_s",
            f"timeout_s must be above 0 seconds, got {self.timeout_s!r}",
        )


class FinishReason(enum.StrEnum):
    """Why a sequence ended. STOP and LENGTH are finished, ABORT is aborted, ERROR is failed."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprobs:
    """The log-probability of one token and of the most likely ones in its place.

    Values are natural logarithms under the model's own distribution, before temperature,
    penalties and filters.
    """

    token_id: int
    logprob: float
    rank: int  # 1 is the most likely
    top: Sequence[tuple[int, float]]  # (token id, logprob), most likely first


@dataclass(frozen=True, kw_only=True, slots=True)
class Finish:
    """How one sequence ended, and what it took."""

    reason: FinishReason
    stop_reason: int | str | None = None  # the stop token id or stop string; None for EOS
    error: str | None = None  # for ABORT and ERROR: what happened
    is_request_error: bool = False  # for ERROR: what the request asked for was impossible
    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int  # prompt tokens that came from the prefix cache
    queue_s: float  # seconds from submission to the first step it was part of


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenEvent:
    """What an engine step brought one sequence of a request; or several, if its reader is behind.

    `text` never holds part of a character and never a part of what may still become a stop
    string: both wait for the next event. Every sequence's last event, and only that, has `finish`.
    """

    request_id: str
    index: int  # which of the n sequences
    token_ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprobs, ...] | None = None  # one for each of token_ids, where asked for
    # One for each prompt token (None for the first), with the first event of sequence 0.
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    finish: Finish | None = None


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
    num_pages: int
    num_used_pages: int  # owned by a sequence; pages that only the prefix cache holds are free
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
        cancelling the task that reads it, aborts the request and frees its pages.

        Raises:
          ValueError: the request can't be served as asked (too long, an id outside the vocabulary);
            a FieldError where one of its fields is at fault.
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
          ValueError: no adapter has this name.
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
          ValueError: no adapter has this name.
        """

    @abc.abstractmethod
    def hold_adapter(self, name: str) -> object:
        """Reads an adapter's weights if they are not in memory: not for a coroutine.

        Returns:
          While this is kept, `submit` need not read them.

        Raises:
          ValueError: no adapter has this name, or what was read can't be served.
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


class EngineClosedError(RuntimeError):
    """The engine takes no more requests: it is draining, stopped, or broken."""


class EngineBrokenError(EngineClosedError):
    """The engine failed in a way from which it does not come back."""


class EngineBusyError(RuntimeError):
    """The queue of waiting sequences is full: try again later."""


class ReaderTooSlowError(RuntimeError):
    """Too much of an answer waits to be read: the request was ended, and what waited is lost."""
