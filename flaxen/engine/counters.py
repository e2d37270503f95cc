"""The scheduler's counters since its start, which `EngineStats` reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """The fields have the names and meaning of `EngineStats`."""

    sum_slots_allocated: int = 0
    sum_slots_held: int = 0
    num_preemptions: int = 0
    num_prefix_queries: int = 0
    num_prefix_hits: int = 0
    num_prompt_tokens: int = 0
    num_adapter_loads: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
