"""The state of one sequence in the engine. Deliberately does not know JAX."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from flaxen.protocol import EmbedSpan, Pooling, Request, SamplingParams
from flaxen.scheduling.adapters.store import ServedAdapter
from flaxen.scheduling.checked import CheckedRequest
from flaxen.stored_pages.page_store import Fetch
from flaxen.structured.states import GrammarState

NO_SLOT = -1
NO_PAGE = -1


@dataclass(kw_only=True, eq=False, slots=True)
class Sequence:
    """The host's state of one of a request's n sequences. Scheduler and engine mutate it."""

    request_id: str
    index: int  # from 0 to the request's n - 1
    sampling: SamplingParams
    tokens: list[int]  # the prompt, then all output tokens that have reached the host
    num_prompt_tokens: int
    cache_salt: str = ""
    session: tuple[str, ...] = ()  # whose earlier prefix this one replaces, under the salt
    retention: float | Literal["done", "drop"] | None = (
        None  # as Request.retention; None: nothing is kept
    )
    priority: int = 0  # lower ones are admitted first
    adapter: ServedAdapter | None = None
    arrival_s: float = 0.0  # on the engine's monotonic clock
    seed: int = 0  # of this sequence; sampling.seed is the request's
    # The sampling parameters' value, which only one of the n sequences has.
    prompt_logprobs: int | None = None
    grammar: GrammarState | None = None  # None allows all tokens
    prompt_embeds: tuple[EmbedSpan, ...] = ()
    pooling: Pooling | None = None
    pooled_spans: tuple[tuple[int, int], ...] = ()
    row_settings: Any = None  # from the executor: the settings of its row, without seed and tokens

    # If True, no step is planned for it before all sampled tokens have reached the host, because a
    # drafter or a vector depends on them.
    waits_for_tokens: bool = False
    draft_token_ids: tuple[int, ...] = ()  # proposed to follow its known tokens
    prediction: tuple[int, ...] = ()  # what the answer will mostly be, as the client says
    num_predicted_right: int = 0  # drafts from there that were accepted
    num_predicted_wrong: int = 0

    # Set by the scheduler.
    order: int = 0  # the order of arrival
    # The most tokens of prompt and output; `add` derives it from the limits.
    max_num_tokens: int = 0
    num_computed_tokens: int = 0  # tokens whose keys are in pages, including steps in flight
    num_in_flight: int = 0  # tokens sampled on the device that have not reached the host
    # Draft tokens in flight. A rejected draft counts as neither computed nor sampled; until that is
    # known, the two numbers above are upper bounds.
    num_rejectable: int = 0
    # Pages in each cache group, while running: the i-th page of a group holds the tokens from i *
    # page_size on, and is NO_PAGE behind a window. A State has one page.
    pages: list[list[int]] = field(default_factory=list)
    # Hashes of the full pages of known tokens.
    page_hashes: list[bytes] = field(default_factory=list)
    hash_epoch: tuple[int, int] = (0, 0)  # what their root was made of, in cache/prefixes
    fetched: Fetch | None = None  # of the pages that only the store has; None: not asked for yet
    num_registered: int = 0  # how many of its pages are in the prefix cache
    row: int | None = None  # the row of the device's state, while running
    adapter_slot: int = NO_SLOT  # the slot of its adapter, while running
    num_cached_tokens: int | None = None  # prompt tokens found by the first prefix cache lookup
    first_scheduled_s: float | None = None
    num_preemptions: int = 0
    weights_version: int = 0  # at its first step
    ended: bool = False

    @property
    def num_tokens(self) -> int:
        """All tokens, including those still on the device: what num_computed_tokens chases."""
        return len(self.tokens) + self.num_in_flight

    @property
    def is_scored(self) -> bool:
        """Whether prompt log-probabilities are requested and have not all reached the host."""
        return self.prompt_logprobs is not None and len(self.tokens) <= self.num_prompt_tokens

    @property
    def needs_whole_prompt(self) -> bool:
        """Whether each prompt token has a result, so that none may come from the prefix cache."""
        is_pooled = self.pooling in ("mean", "cls") or bool(self.pooled_spans)
        return self.prompt_logprobs is not None or is_pooled

    @property
    def num_output_tokens(self) -> int:
        """All output tokens, including those still on the device."""
        return self.num_tokens - self.num_prompt_tokens


def sequence_of(checked: CheckedRequest, index: int, seed: int, arrival_s: float) -> Sequence:
    """Makes one of a request's n sequences in its initial state."""
    request = checked.request
    return Sequence(
        request_id=request.request_id,
        index=index,
        sampling=request.sampling,
        tokens=list(request.prompt_token_ids),
        num_prompt_tokens=len(request.prompt_token_ids),
        cache_salt=request.cache_salt,
        session=_session(request, index),
        retention=request.retention,
        priority=request.priority,
        adapter=checked.adapter,
        arrival_s=arrival_s,
        seed=seed,
        # Only one sequence computes prompt logprobs; the others may use cached pages.
        prompt_logprobs=request.sampling.prompt_logprobs if index == 0 else None,
        grammar=checked.grammars[index].take() if checked.grammars else None,
        row_settings=checked.row_settings,
        prompt_embeds=request.prompt_embeds,
        prediction=request.prediction_token_ids,
        pooling=request.pooling,
        pooled_spans=request.pooled_spans,
        waits_for_tokens=request.pooling is not None,
    )


def _session(request: Request, index: int) -> tuple[str, ...]:
    """What names the prefix that is kept: the session and the sequence's number, or the request."""
    name = ("request", request.request_id)
    return (*(name if request.session_id is None else ("session", request.session_id)), str(index))
