"""Answers as the conversation sees them, wherever they come from. Knows neither engine nor HTTP."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The limit at which an answer ended, where the model would have gone on."""

    limit: str  # as the user knows it: --max-tokens 512
    can_continue: bool  # whether more of the answer can be asked for
    can_raise: bool  # whether max_tokens is the limit


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How an answer ended, with its counts where they are known."""

    cut: Cut | None = None
    num_prompt_tokens: int | None = None
    num_cached_tokens: int | None = None  # prompt tokens that were computed before
    num_output_tokens: int | None = None


# (conversation, fields of SamplingParams) -> pieces of the answer's text, and at last its ending.
# A piece is empty while nothing has come, so that the answer can be stopped there too.
# An answer that is the conversation's last message is continued. Closing the generator stops it.
Answer = Callable[[Sequence[Message], Mapping[str, Any]], Generator[str | Ending, None, None]]


class AnswerError(Exception):
    """The engine failed to answer once; the conversation can continue."""
