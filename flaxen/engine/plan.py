"""What the scheduler decided for one step. Deliberately does nothing itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from flaxen.engine.adapters.store import ServedAdapter
from flaxen.engine.sequence import Sequence


@dataclass(slots=True)
class Scheduled:
    """One sequence's part of a step."""

    sequence: Sequence
    row: int  # in the device's per-sequence state
    start: int  # position of the first token to compute
    num_tokens: int  # at least 1, draft tokens included
    samples: bool  # a token is sampled after the last one
    load_row: bool  # just admitted or resumed: the device's row must be written from the host
    num_scored: int = 0  # of its first tokens, those whose successor's log-probability is wanted
    num_drafts: int = 0  # of its last tokens, those that are guessed; each may be rejected


@dataclass(slots=True)
class StepPlan:
    """One step. Its inputs must be read from the sequences before the scheduler is called again.

    A plan that has items must run whole, or every sequence in it be forgotten and ended: others
    may already have been promised the pages that it fills.
    """

    items: list[Scheduled] = field(default_factory=list)  # the running, then those just admitted
    preempted: list[Sequence] = field(default_factory=list)
    num_decoding: int = 0  # sequences that only wait for their next token
    num_catching_up: int = 0  # tokens of the others
    cost: float = 0.0  # of those tokens; a prompt token without scores costs 1
    num_allowed: int | None = None  # the pace's limit of the cost; None: not asked for yet
    # Adapter slots to be filled after the steps planned before it, before this one runs.
    adapter_loads: list[tuple[int, ServedAdapter]] = field(default_factory=list)
