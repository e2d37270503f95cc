"""The scheduler's counters since its start, which `EngineStats` reports."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, fields
from typing import Any

from flaxen.protocol import STEP_TOKEN_BOUNDS


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
    num_drafts: int = 0
    accepted_per_pos: list[int] = field(default_factory=list)  # as long as the longest draft
    num_prompts: int = 0  # prompts whose first token is sampled; only used here
    step_sizes: list[int] = field(default_factory=lambda: [0] * (len(STEP_TOKEN_BOUNDS) + 1))
    sum_step_tokens: int = 0

    def count_draft(self, num_tokens: int, num_accepted: int) -> None:
        """Counts the draft of a sequence that a step has verified."""
        self.num_drafts += 1
        self.num_draft_tokens += num_tokens
        self.num_accepted_tokens += num_accepted
        for place in range(num_accepted):
            self.accepted_per_pos[place] += 1

    def count_step(self, num_tokens: int) -> None:
        """Counts a step with so many prompt tokens and generated ones."""
        self.step_sizes[bisect_left(STEP_TOKEN_BOUNDS, num_tokens)] += 1
        self.sum_step_tokens += num_tokens

    def told(self) -> dict[str, Any]:
        """The fields of `EngineStats`."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        del found["num_prompts"]
        return {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
