"""The scheduler's plan for one step. Contains no logic."""

from __future__ import annotations

from dataclasses import dataclass, field

from flaxen.scheduling.adapters.store import ServedAdapter
from flaxen.scheduling.sequence import Sequence


@dataclass(slots=True)
class Scheduled:
    """The part of a step that one sequence gets."""

    sequence: Sequence
    row: int  # of the device's per-sequence state
    start: int  # the position of the first token to compute
    num_tokens: int  # at least 1, including draft tokens
    samples: bool  # whether a token is sampled after the last one
    load_row: bool  # just admitted or resumed: the row must be written from the host
    num_scored: int = 0  # how many of its first tokens need the log-probability of the next token
    num_drafts: int = 0  # how many of its last tokens are drafts, which may be rejected


@dataclass(slots=True)
class StepPlan:
    """One step. The sequences' inputs must be read before the scheduler is called again.

    A plan with items must run completely, or all its sequences must be ended and their pages
    invalidated: other sequences may already share the pages that it fills.
    """

    # Running sequences, then newly admitted ones.
    items: list[Scheduled] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)
    num_decoding: int = 0  # decoding sequences
    num_catching_up: int = 0  # tokens of all other sequences
    cost: float = 0.0  # the cost of those tokens; a prompt token without a log-probability costs 1
    num_allowed: int | None = None  # the pace's limit of the cost; None if not asked yet
    # Adapter slots to fill after all earlier steps and before this one.
    adapter_loads: list[tuple[int, ServedAdapter]] = field(default_factory=list)
