"""The sequences that run, and all that they own: pages, a row each, the slots of their adapters.

Deliberately does not know: who is next, the budget, tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

from flaxen.engine.adapters.slots import AdapterSlots
from flaxen.engine.cache.pools import Pools
from flaxen.engine.counters import Counters
from flaxen.engine.plan import Scheduled, StepPlan
from flaxen.engine.sequence import NO_SLOT, Sequence


class Running:
    """The running sequences, in the order in which they were admitted.

    Args:
      num_rows: sequences that can run at once.
      pools: of pages.
      adapter_slots: of adapters.
      counters: are counted up.
    """

    def __init__(
        self, num_rows: int, pools: Pools, adapter_slots: AdapterSlots, counters: Counters
    ) -> None:
        self._sequences: dict[Sequence, None] = {}  # an ordered set: any one can leave in O(1)
        self._free_rows = list(range(num_rows))
        self._pools, self._adapter_slots, self._counters = pools, adapter_slots, counters

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    def __reversed__(self) -> Iterator[Sequence]:
        return reversed(self._sequences)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._sequences

    @property
    def num_free_rows(self) -> int:
        """How many sequences may be admitted, as far as rows go."""
        return len(self._free_rows)

    def admit(self, sequence: Sequence, num_cached: int) -> bool:
        """Gives a sequence a row, and the pages that it begins with.

        One page for each running sequence stays free: without it, who was just admitted is often
        preempted, and its work lost, as soon as an older sequence grows.

        Args:
          sequence: owns nothing.
          num_cached: pages of the prefix cache that hold its beginning.

        Returns:
          False if there are too few free pages; then the sequence owns nothing.
        """
        if not self._pools.admit(sequence, num_cached, len(self._sequences)):
            return False
        self._sequences[sequence] = None
        sequence.row = self._free_rows.pop()
        return True

    def pin_adapter(self, sequence: Sequence, plan: StepPlan) -> None:
        """Keeps the sequence's adapter in a slot, which the plan fills if it must be."""
        if sequence.adapter is not None:
            sequence.adapter_slot, must_fill = self._adapter_slots.pin(sequence.adapter)
            if must_fill:
                plan.adapter_loads.append((sequence.adapter_slot, sequence.adapter))

    def compute(
        self, sequence: Sequence, end: int, *, num_drafts: int = 0, load_row: bool = False
    ) -> Scheduled:
        """Counts the tokens before `end` as computed, and the samples as in flight."""
        start, row = sequence.num_computed_tokens, sequence.row
        assert row is not None
        sequence.num_computed_tokens = end
        sequence.num_rejectable += num_drafts
        # Nothing predicts the first token of a prompt, and its last one predicts an output's.
        num_scored = min(end, sequence.num_prompt_tokens - 1) - start if sequence.is_scored else 0
        self._pools.register(sequence)
        samples = end - num_drafts == sequence.num_tokens
        if samples:
            if end == sequence.num_prompt_tokens:
                self._counters.num_prompt_tokens += end
            sequence.num_in_flight += 1 + num_drafts
        return Scheduled(
            sequence, row, start, end - start, samples, load_row, max(0, num_scored), num_drafts
        )

    def remove_latest(self) -> Sequence:
        """Takes all that it owns from the sequence that was admitted last, and returns it."""
        latest = next(reversed(self._sequences))
        self.remove(latest)
        return latest

    def remove(self, sequence: Sequence) -> None:
        """Takes all that it owns from a sequence, which no longer runs."""
        assert sequence.row is not None
        del self._sequences[sequence]
        if sequence.adapter is not None:
            self._adapter_slots.unpin(sequence.adapter)
            sequence.adapter_slot = NO_SLOT
        self._pools.release(sequence)
        self._free_rows.append(sequence.row)
        sequence.row = None
        sequence.num_rejectable = 0
