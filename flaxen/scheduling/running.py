"""The running sequences and what they own: pages, a row each, their adapters' slots.

Deliberately does not know: the order of admission, the budget, tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

from flaxen.scheduling.adapters.slots import AdapterSlots
from flaxen.scheduling.cache.pools import Pools
from flaxen.scheduling.counters import Counters
from flaxen.scheduling.plan import Scheduled, StepPlan
from flaxen.scheduling.sequence import NO_SLOT, Sequence


class Running:
    """The running sequences, in the order of admission.

    Args:
      num_rows: the most sequences that run at once.
      pools: of pages.
      adapter_slots: of adapters.
      counters: are counted up.
    """

    def __init__(
        self, num_rows: int, pools: Pools, adapter_slots: AdapterSlots, counters: Counters
    ) -> None:
        self._sequences: dict[Sequence, None] = {}  # an ordered set with removal in O(1)
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
        """The number of free rows."""
        return len(self._free_rows)

    def admit(self, sequence: Sequence, num_cached: int) -> bool:
        """Gives a sequence a row and its first pages.

        One page for each running sequence stays free. Otherwise a newly admitted sequence is often
        preempted, and its work lost, as soon as an older sequence grows.

        Args:
          sequence: owns nothing.
          num_cached: the number of cached pages at its beginning.

        Returns:
          False if there are too few free pages; the sequence owns nothing then.
        """
        if not self._pools.admit(sequence, num_cached, len(self._sequences)):
            return False
        self._sequences[sequence] = None
        sequence.row = self._free_rows.pop()
        return True

    def pin_adapter(self, sequence: Sequence, plan: StepPlan) -> None:
        """Pins the sequence's adapter to a slot; the plan fills the slot if necessary."""
        if sequence.adapter is not None:
            sequence.adapter_slot, must_fill = self._adapter_slots.pin(sequence.adapter)
            if must_fill:
                plan.adapter_loads.append((sequence.adapter_slot, sequence.adapter))

    def compute(
        self, sequence: Sequence, end: int, *, num_drafts: int = 0, load_row: bool = False
    ) -> Scheduled:
        """Marks the tokens before `end` as computed, and the samples as in flight."""
        start, row = sequence.num_computed_tokens, sequence.row
        assert row is not None
        sequence.num_computed_tokens = end
        sequence.num_rejectable += num_drafts
        # A prompt's first token has no log-probability; its last token predicts an output token.
        num_scored = min(end, sequence.num_prompt_tokens - 1) - start if sequence.is_scored else 0
        self._pools.register(sequence)
        samples = end - num_drafts == sequence.num_tokens
        if samples:
            if end == sequence.num_prompt_tokens:
                self._counters.num_prompt_tokens += end
                self._counters.num_prompts += sequence.pooling is None
            sequence.num_in_flight += 1 + num_drafts
        samples_token = samples and sequence.pooling is None  # a pooled sequence has no next token
        return Scheduled(
            sequence,
            row,
            start,
            end - start,
            samples_token,
            load_row,
            max(0, num_scored),
            num_drafts,
        )

    def remove_latest(self) -> Sequence:
        """Removes the most recently admitted sequence, frees what it owns, and returns it."""
        latest = next(reversed(self._sequences))
        self.remove(latest)
        return latest

    def remove(self, sequence: Sequence) -> None:
        """Removes a running sequence and frees what it owns."""
        assert sequence.row is not None
        del self._sequences[sequence]
        if sequence.adapter is not None:
            self._adapter_slots.unpin(sequence.adapter)
            sequence.adapter_slot = NO_SLOT
        self._pools.release(sequence)
        self._free_rows.append(sequence.row)
        sequence.row = None
        sequence.num_rejectable = 0
