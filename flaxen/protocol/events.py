"""What an engine answers: tokens as they come, and how each sequence ended.

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
    ABORT = "abort"  # its client asked for it, or the engine stops
    TIMEOUT = "timeout"  # Request.timeout_s went by
    IMPOSSIBLE = "impossible"  # what the request asked for left no token to sample
    ERROR = "error"  # the fault of the engine, its device or the model

    @property
    def is_complete(self) -> bool:
        """The sequence has all that was asked for."""
        return self in (FinishReason.STOP, FinishReason.LENGTH)

    @property
    def wire_name(self) -> str:
        """How it is called outside, where vLLM's names are known: they have none for the others."""
        outside = {FinishReason.TIMEOUT: "abort", FinishReason.IMPOSSIBLE: "error"}
        return outside.get(self, self.value)


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
    error: str | None = None  # what happened, for all but STOP and LENGTH
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
