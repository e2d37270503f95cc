"""The requests to an engine: a prompt, and the sampling parameters.

Deliberately does not know any engine's limits. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from flaxen.protocol.errors import FieldError
from flaxen.protocol.inputs import EmbedSpan, Grammar, Pooling
from flaxen.protocol.structured import StructuredOutputs

MAX_SEED = 2**63 - 1


def _require(condition: bool, field: str, message: str) -> None:
    if not condition:
        raise FieldError(field, message)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """The sampling parameters of one request, with vLLM's names and meanings.

    Raises:
      FieldError: a field is out of range; the message names it, its value and the range.
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
    # Until this length no stop token is sampled and no stop string ends the text.
    min_tokens: int = 0
    max_tokens: int | None = 16  # None: up to the model's length
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None  # how many of the likeliest tokens to report for each sampled token
    prompt_logprobs: int | None = None  # the same for each prompt token
    # Reports these tokens for each sampled one, in this order and in place of the likeliest.
    logprob_token_ids: tuple[int, ...] = ()
    # What the output must look like. An engine follows the request's grammar, which is made of it.
    structured_outputs: StructuredOutputs | None = None

    def __post_init__(self) -> None:
        for name in ("stop", "bad_words"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, (getattr(self, name),))
        for name in (
            "stop", "stop_token_ids", "bad_words", "allowed_token_ids", "logprob_token_ids",
        ):  # fmt: skip
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
        structure = self.structured_outputs
        _require(
            structure is None or isinstance(structure, StructuredOutputs),
            "structured_outputs",
            f"structured_outputs must be a StructuredOutputs, got a {type(structure).__name__}",
        )
        for name in ("stop", "bad_words"):
            for word in getattr(self, name):
                _require(
                    isinstance(word, str) and word != "",
                    name,
                    f"{name} must hold strings that are not empty, got {word!r}",
                )
        for name in ("stop_token_ids", "allowed_token_ids", "logprob_token_ids"):
            for token_id in getattr(self, name) or ():  # may be a whole vocabulary
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

    @property
    def num_logprobs(self) -> int | None:
        """How many tokens are reported for each sampled one; None: not even that one."""
        return len(self.logprob_token_ids) or self.logprobs

    def _check_number(self, name: str, low: float, high: float, *, above: bool = False) -> None:
        """Checks a number's range; `above` excludes `low` itself."""
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


DEFAULT_TTL_S, MAX_TTL_S = 300, 86400  # that a prefix is kept after its request


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt and how to continue it.

    Raises:
      FieldError: the prompt is empty, the priority is no number or the timeout is not above 0.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    cache_salt: str = ""  # requests share cached prefixes only with the same salt
    # Names a conversation that comes back: what is kept of it is replaced with each request.
    session_id: str | None = None
    # What becomes of the prefix after the end: it is kept for so many seconds, longer than those of
    # others; "done": nobody will be back, and nothing is kept for the session; "drop": nor is what
    # this request computed of any use. None keeps a session's for DEFAULT_TTL_S, and no other.
    retention: float | Literal["done", "drop"] | None = None
    priority: int = 0  # requests of lower numbers are taken from the queue first
    # Seconds from submission after which the request ends with TIMEOUT.
    timeout_s: float | None = None
    adapter: str | None = None  # the name of an adapter of the engine; None is the base model
    # Makes a grammar for each of the n sequences; None allows all tokens.
    grammar: Callable[[], Grammar] | None = None
    # What the output will mostly be, for an engine whose drafter reads tokens. No output depends on
    # it.
    prediction_token_ids: tuple[int, ...] = ()
    prompt_embeds: tuple[EmbedSpan, ...] = ()  # in place of the prompt's tokens, in order
    pooling: Pooling | None = None  # asks for a vector of the prompt in place of output tokens
    # With pooling: also the mean of these tokens, each from its first to before its last one.
    pooled_spans: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt_token_ids", tuple(self.prompt_token_ids))
        _require(
            len(self.prompt_token_ids) > 0,
            "prompt_token_ids",
            "the prompt is empty: give at least one token",
        )
        _require(
            _is_int(self.priority),
            "priority",
            f"priority must be a whole number, got {self.priority!r}: 0 is the usual one, and "
            "lower ones come first",
        )
        _require(
            self.timeout_s is None or (_is_number(self.timeout_s) and self.timeout_s > 0),
            "timeout_s",
            f"timeout_s must be above 0 seconds, got {self.timeout_s!r}",
        )
        kept = self.retention
        if kept is None and self.session_id is not None:
            object.__setattr__(self, "retention", DEFAULT_TTL_S)
        is_time = isinstance(kept, int | float) and _is_number(kept) and 0 < kept <= MAX_TTL_S
        _require(
            is_time or kept in (None, "done", "drop"),
            "retention",
            f"retention must be above 0 and at most {MAX_TTL_S} seconds, 'done' or 'drop', got "
            f"{kept!r}",
        )
