"""One sequence on its way through the engine. Deliberately does not know JAX."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flaxen.engine.adapters.store import ServedAdapter
from flaxen.engine.checked import CheckedRequest
from flaxen.protocol import SamplingParams

NO_SLOT = -1
NO_PAGE = -1


@dataclass(kw_only=True, eq=False, slots=True)
class Sequence:
    """The host's record of one of a request's n sequences. The scheduler and engine mutate it."""

    request_id: str
    index: int  # which of the request's n
    sampling: SamplingParams
    tokens: list[int]  # the prompt, then every output token that reached the host
    num_prompt_tokens: int
    cache_salt: str = ""
    adapter: ServedAdapter | None = None
    arrival_s: float = 0.0  # monotonic clock
    seed: int = 0  # this sequence's own; sampling.seed is the request's
    prompt_logprobs: int | None = None  # as sampling's, but of one of the n only
    row_settings: Any = None  # the executor's: what its row is loaded with, beside seed and tokens

    # No step is planned for it before all that was sampled has reached the host: what it may
    # sample next, or what its drafter proposes, depends on that.
    waits_for_tokens: bool = False
    draft_token_ids: tuple[int, ...] = ()  # proposed to come after its known tokens

    # The scheduler's.
    order: int = 0  # of arrival
    max_num_tokens: int = 0  # prompt and output at most; add() derives it from the limits
    num_computed_tokens: int = 0  # tokens whose keys are in pages, steps in flight included
    num_in_flight: int = 0  # tokens sampled on the device that have not reached the host
    # Drafts (guessed tokens) in flight. Each may be rejected, and then was neither computed nor
    # sampled: until that is known, the two numbers above are the most that there can be.
    num_rejectable: int = 0
    # That it owns in each cache group, while running: the i-th of a group holds its tokens from
    # i * page_size on, and is NO_PAGE behind a window. Of a State it is the only one.
    pages: list[list[int]] = field(default_factory=list)
    page_hashes: list[bytes] = field(default_factory=list)  # of the full pages of known tokens
    num_registered: int = 0  # of its pages that others can find, or that it was given as cached
    row: int | None = None  # in the device's per-sequence state, while running
    adapter_slot: int = NO_SLOT  # that holds its adapter, while running
    num_cached_tokens: int | None = None  # prompt tokens found by the first prefix look-up
    first_scheduled_s: float | None = None
    ended: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens that exist, those still on the device included: num_computed_tokens chases it."""
        return len(self.tokens) + self.num_in_flight

    @property
    def is_scored(self) -> bool:
        """Its prompt's log-probabilities are wanted, and have not all reached the host."""
        return self.prompt_logprobs is not None and len(self.tokens) <= self.num_prompt_tokens

    @property
    def num_output_tokens(self) -> int:
        """Output tokens that exist, those still on the device included."""
        return self.num_tokens - self.num_prompt_tokens


def sequence_of(checked: CheckedRequest, index: int, seed: int, arrival_s: float) -> Sequence:
    """One of a request's n sequences, as the engine first knows it."""
    request = checked.request
    return Sequence(
        request_id=request.request_id,
        index=index,
        sampling=request.sampling,
        tokens=list(request.prompt_token_ids),
        num_prompt_tokens=len(request.prompt_token_ids),
        cache_salt=request.cache_salt,
        adapter=checked.adapter,
        arrival_s=arrival_s,
        seed=seed,
        # The prompt is scored once, and the others may use cached pages.
        prompt_logprobs=request.sampling.prompt_logprobs if index == 0 else None,
        row_settings=checked.row_settings,
    )
