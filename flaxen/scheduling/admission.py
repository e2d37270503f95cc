"""Admits waiting sequences, in their queue's order, while there are rows, pages and tokens.

Deliberately does not know: what running sequences compute, which are preempted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from flaxen.scheduling import paced
from flaxen.scheduling.adapters.slots import AdapterSlots
from flaxen.scheduling.cache.pools import Pools
from flaxen.scheduling.counters import Counters
from flaxen.scheduling.pace import Pace
from flaxen.scheduling.plan import StepPlan
from flaxen.scheduling.running import Running
from flaxen.scheduling.sequence import Sequence
from flaxen.scheduling.waiting import Waiting

_MAX_FETCHING = 4  # waiting sequences whose stored pages are got in advance
_MAX_PASSED = 256  # waiting sequences without a slot that one step may skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Admission:
    """Moves sequences from waiting to running."""

    waiting: Waiting  # in the order in which they are admitted
    running: Running
    pools: Pools
    adapter_slots: AdapterSlots
    pace: Pace | None  # limits prompt tokens; None leaves only the budget
    page_size: int  # tokens
    whole_prompts: bool  # whether a sequence is admitted only to a step that has room for all of it
    counters: Counters  # which are updated
    clock: Callable[[], float]  # monotonic seconds, for Sequence.first_scheduled_s

    def admit(self, plan: StepPlan, budget: int) -> int:
        """Adds waiting sequences to the plan. Returns the rest of the budget."""
        queue = self.adapter_slots.queue()
        for sequence in islice(self.waiting, _MAX_FETCHING):
            if sequence.fetched is None:
                self.pools.found.fetch(sequence, self._most_found(sequence))
        for sequence in list(islice(self.waiting, self.running.num_free_rows + _MAX_PASSED)):
            if not self.running.num_free_rows or budget <= 0:
                break
            if self.whole_prompts and sequence.num_tokens > budget:
                break  # it is the first of the next step, which has room for any prompt
            if paced.left(self.pace, plan, sequence, budget, self.prefilling()) == 0:
                break
            if not queue.may_run(sequence.adapter):
                continue
            if not self._has_fetched(sequence):
                continue
            if sequence.fetched is not None and sequence.fetched.pages and self.pools.stored.loads:
                break  # the others do not wait for more copies before one step
            # A resumed sequence is computed from the host's tokens, so all must have arrived.
            if sequence.num_in_flight or not self._start(sequence):
                break
            assert len(sequence.tokens) < sequence.max_num_tokens, (
                f"{sequence.request_id} has all its {sequence.max_num_tokens} tokens: end it"
            )
            self.running.pin_adapter(sequence, plan)
            start = sequence.num_computed_tokens
            wanted = len(sequence.tokens) - start
            num_taken = paced.take(self.pace, plan, sequence, wanted, budget, self.prefilling())
            has_pages = self.pools.grow(sequence, start + num_taken)
            assert has_pages, f"{sequence.request_id} was admitted, but too few pages are free"
            plan.items.append(self.running.compute(sequence, start + num_taken, load_row=True))
            budget -= num_taken
        self.counters.num_adapter_loads += len(plan.adapter_loads)
        return budget

    def prefilling(self) -> Iterator[tuple[Sequence, int]]:
        """Sequences that may be computed now, and the tokens that each needs: more than one."""
        for sequence in reversed(self.running):  # no decoding sequence comes after these
            missing = sequence.num_tokens - sequence.num_computed_tokens
            if missing <= 1:
                break
            yield sequence, missing
        for sequence in islice(self.waiting, self.running.num_free_rows):
            yield sequence, sequence.num_tokens - self._num_cached(sequence) * self.page_size

    def _has_fetched(self, sequence: Sequence) -> bool:
        """Whether a sequence need not wait for stored pages. Cached ones that were evicted while it
        waited are fetched too.
        """
        fetched = sequence.fetched
        if fetched is None:
            return True
        if fetched.is_ready and not fetched.is_second:
            if not fetched.is_read or self._num_cached(sequence) >= fetched.num_expected:
                return True  # what took too long is not waited for again
            self.pools.found.fetch(sequence, self._most_found(sequence))
        return sequence.fetched is None or sequence.fetched.is_ready

    def _start(self, sequence: Sequence) -> bool:
        """Admits a sequence. Returns False if there are too few free pages."""
        num_cached = self._num_cached(sequence)
        num_stored = self.pools.stored.num_hit_tokens
        if not self.running.admit(sequence, num_cached):
            return False
        self.waiting.remove(sequence)
        sequence.num_computed_tokens = num_cached * self.page_size
        if sequence.num_cached_tokens is None:  # its first admission
            sequence.num_cached_tokens = sequence.num_computed_tokens
            sequence.first_scheduled_s = self.clock()
            sequence.weights_version = self.pools.weights_version
            if self._looks_up(sequence):
                self.counters.num_prefix_queries += sequence.num_prompt_tokens
                num_loaded = self.pools.stored.num_hit_tokens - num_stored
                self.counters.num_prefix_hits += sequence.num_cached_tokens - num_loaded
        return True

    def _num_cached(self, sequence: Sequence) -> int:
        """The number of pages at a sequence's beginning that the prefix cache holds."""
        return self.pools.found.num_cached(sequence, self._most_found(sequence))

    def _most_found(self, sequence: Sequence) -> int:
        """The most pages at a sequence's beginning that need not be computed."""
        # The last position must always be computed: its logits give the next token.
        return (len(sequence.tokens) - 1) // self.page_size * self._looks_up(sequence)

    def _looks_up(self, sequence: Sequence) -> bool:
        """Whether part of the prompt may come from the prefix cache."""
        return self.pools.has_prefixes and not sequence.needs_whole_prompt
