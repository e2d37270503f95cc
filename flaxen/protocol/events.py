"""The events of an engine: new tokens, and how each sequence ended.

Standard library only.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass


class FinishReason(enum.StrEnum):
    """Why a sequence ended, in order of severity."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"  # aborted by the client, or the engine stops
    TIMEOUT = "timeout"  # Request.timeout_s has passed
    IMPOSSIBLE = "impossible"  # the request's options forbid every token
    ERROR = "error"  # a fault of the engine, the device or the model

    @property
    def is_complete(self) -> bool:
        """Whether the sequence is complete."""
        return self in (FinishReason.STOP, FinishReason.LENGTH)

    @property
    def wire_name(self) -> str:
        """The name in APIs, which use vLLM's names; vLLM has none for TIMEOUT and IMPOSSIBLE."""
        outside = {FinishReason.TIMEOUT: "abort", FinishReason.IMPOSSIBLE: "error"}
        return outside.get(self, self.value)


class LogprobsMode(enum.StrEnum):
    """What an engine reports as log-probabilities of output tokens, with vLLM's names."""

    RAW_LOGPROBS = "raw_logprobs"  # of the model's own distribution
    RAW_LOGITS = "raw_logits"  # the model's own logits
    # The values that tokens are sampled from: after bias, penalties, masks, temperature, filters.
    PROCESSED_LOGPROBS = "processed_logprobs"
    PROCESSED_LOGITS = "processed_logits"  # the logits of that; minus infinity where dropped

    @property
    def is_logits(self) -> bool:
        """Whether it is logits, which are no log-probabilities."""
        return self in (LogprobsMode.RAW_LOGITS, LogprobsMode.PROCESSED_LOGITS)

    @property
    def is_processed(self) -> bool:
        """Whether it is about what is sampled from."""
        return self in (LogprobsMode.PROCESSED_LOGPROBS, LogprobsMode.PROCESSED_LOGITS)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprobs:
    """The log-probability of one token and of the likeliest tokens at its position.

    Values are natural logarithms under the model's own distribution, before temperature,
    penalties and filters; of output tokens they are what the engine's LogprobsMode says.
    """

    token_id: int
    logprob: float
    rank: int  # 1 is the most likely
    top: Sequence[tuple[int, float]]  # (token id, logprob), most likely first
    # The share of the probability that top_k, top_p and min_p kept; None if the mode is raw.
    kept_mass: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Finish:
    """How one sequence ended, with its counts."""

    reason: FinishReason
    stop_reason: int | str | None = None  # the stop token id or stop string; None for EOS
    error: str | None = None  # the message, for all reasons but STOP and LENGTH
    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int  # prompt tokens found in the prefix cache
    # Drafts taken from the request's prediction that were accepted and rejected.
    num_predicted_right: int = 0
    num_predicted_wrong: int = 0
    pooled: tuple[float, ...] | None = None  # the vector, if the request asked for pooling
    spans: bytes = b""  # of the request's pooled_spans, float32 [spans, D] row by row
    queue_s: float  # seconds from submission to its first step
    num_preemptions: int = 0
    # The version of the weights at the first step; later tokens may come of newer weights.
    weights_version: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenEvent:
    """The new tokens of one sequence from one engine step, or from several if its reader is behind.

    `text` never contains half a character or the beginning of a possible stop string: both wait for
    the next event. Only the last event of a sequence has `finish`.
    """

    request_id: str
    index: int  # from 0 to n - 1
    token_ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprobs, ...] | None = None  # one for each of token_ids, if requested
    # One for each prompt token (None for the first), with the first event of sequence 0.
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    finish: Finish | None = None
