"""Decides which tokens the next step computes, and in which pages.

One rule: a sequence's num_computed_tokens chases its num_tokens, under one token budget a step.
There is no prefill phase and no decode phase; but a pace may bound how many prompt tokens are
computed beside sequences that only need their next one. The engine plans step N+1 before step N's
tokens reach the host, so `schedule` counts a step's tokens as computed, and its samples as in
flight, at once: steps run on the device in the order in which they were planned.

Knows: sequences, pages, rows, adapter slots, the budget, the pace.
Deliberately does not know: token texts, stop conditions, sampling, the device, JAX.

Invariants:
  - The running own their pages and one row each, and a slot holds their adapter; who waits or has
    ended owns nothing.
  - Whoever runs longest always gets what it needs, so that nobody starves: pages are taken from
    the latest admitted, and who waits is admitted first come, first served. Only who waits for an
    adapter's slot is overtaken, and not for ever: `adapter_slots.Turns`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import count, islice, takewhile

from flaxen.engine import paced
from flaxen.engine.adapters.slots import AdapterSlots
from flaxen.engine.cache.pages import PagePool
from flaxen.engine.cache.prefixes import Prefixes
from flaxen.engine.config import EngineConfig
from flaxen.engine.pace import Pace
from flaxen.engine.plan import Scheduled, StepPlan
from flaxen.engine.sequence import NO_SLOT, Sequence

_MAX_PASSED = 256  # waiting sequences without a slot that a step looks past


class Scheduler:
    """Plans steps. One thread at a time may call it.

    Args:
      config: the sizes.
      pace: of prompts, in steps in which others wait for a token; None: only the budget's.
      clock: seconds, monotonic; stamps Sequence.first_scheduled_s.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config, self._pace = config, pace
        self.pool = PagePool(
            config.groups[0].num_pages, enable_prefix_caching=config.enable_prefix_caching
        )
        self.adapter_slots = AdapterSlots(config.lora.max_loras if config.lora is not None else 0)
        # Counters since the start; EngineStats says what they count.
        self.sum_slots_allocated = 0
        self.sum_slots_held = 0
        self.num_preemptions = 0
        self.num_prefix_queries = 0
        self.num_prefix_hits = 0
        self.num_prompt_tokens = 0
        self.num_adapter_loads = 0

        self._clock = clock
        self._page_size = config.page_size
        # Both are ordered sets, so that any sequence can leave in O(1).
        self._running: dict[Sequence, None] = {}  # in the order in which they were admitted
        self._waiting: OrderedDict[Sequence, None] = OrderedDict()  # in order of arrival
        self._free_rows = list(range(config.max_num_seqs))
        self._num_slots_held = 0  # of the used pages
        self._orders = count()
        self._prefixes = Prefixes(config.page_size, is_enabled=config.enable_prefix_caching)

    @property
    def num_running(self) -> int:
        """Sequences that own pages, those that only wait for tokens in flight included."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that were never admitted, or were preempted."""
        return len(self._waiting)

    def waiting(self) -> tuple[Sequence, ...]:
        """All that wait, in order of arrival. Any thread may call."""
        return tuple(self._waiting)  # copied in one piece

    @property
    def has_work(self) -> bool:
        """Some sequence has not ended."""
        return bool(self._running or self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Queues a new sequence of a request that was checked. Sets its max_num_tokens."""
        max_model_len = self.config.max_model_len
        assert len(sequence.tokens) < max_model_len, "a prompt without room for an output token"
        max_tokens = sequence.sampling.max_tokens
        sequence.max_num_tokens = max_model_len
        if max_tokens is not None:
            sequence.max_num_tokens = min(max_model_len, sequence.num_prompt_tokens + max_tokens)
        sequence.order = next(self._orders)
        self._waiting[sequence] = None

    def schedule(self) -> StepPlan:
        """Plans the next step, as if all steps planned before were done.

        Returns:
          The plan; without items if there is nothing to compute before tokens in flight arrive.
        """
        plan = StepPlan()
        allowed = self.config.max_num_batched_tokens
        budget = self._schedule_running(plan, allowed)
        budget = self._admit(plan, budget)
        if plan.items:
            self._num_slots_held += allowed - budget
            self.sum_slots_held += self._num_slots_held
            self.sum_slots_allocated += self.pool.num_used * self._page_size
        return plan

    def append(self, sequence: Sequence, token_id: int) -> None:
        """Takes a sampled token that reached the host; one of a sequence that ended is ignored."""
        if sequence.ended:
            return
        assert sequence.num_in_flight > 0, f"{sequence.request_id}: no token is in flight"
        sequence.num_in_flight -= 1
        sequence.tokens.append(token_id)
        num_known = len(sequence.tokens)
        # The page that this token fills gets its name, now or when the token is scheduled.
        if num_known % self._page_size == 0 and sequence.row is not None:
            self._prefixes.extend(sequence)
            if num_known <= sequence.num_computed_tokens:
                last = num_known // self._page_size - 1
                self.pool.register([sequence.pages[0][last]], sequence.page_hashes[last:])

    def end(self, sequence: Sequence) -> None:
        """Removes a sequence, wherever it is, and frees all it owns. Repeated calls do nothing."""
        sequence.ended = True
        if sequence in self._running:
            del self._running[sequence]
            self._release(sequence)
        else:
            self._waiting.pop(sequence, None)

    def reset(self) -> None:
        """Preempts all that run and empties the prefix cache: the device lost what its pages held.

        Tokens still in flight will never arrive: they are sampled anew.
        """
        while self._running:
            latest, _ = self._running.popitem()
            self._release(latest)
            self._requeue(latest)
        for waiting in self._waiting:
            waiting.num_in_flight = 0
        self.pool.reset_cache()
        self.adapter_slots.reset()

    def drop_prefix_cache(self) -> None:
        """Keeps all pages filled so far from all that are admitted from now on.

        Sequences that run keep theirs, and what they add to them is not found either.
        """
        self._prefixes.drop(self._waiting)
        self.pool.reset_cache()

    def forget(self, sequence: Sequence) -> None:
        """Keeps the pages that a sequence may have filled from all that are admitted from now on.

        For one whose step failed, or whose logits are not finite; it may have ended. Which pages
        are bad, and who has built on them since, can't be told: all pages under its salt are left
        behind, and are evicted as pages are needed.
        """
        self._prefixes.distrust(sequence.cache_salt, self._waiting)

    def _schedule_running(self, plan: StepPlan, budget: int) -> int:
        """Adds the running to the plan, oldest first. Returns what is left of the budget."""
        page_size = self._page_size
        last_slot = page_size - 1
        items = plan.items
        for sequence in list(self._running):
            row = sequence.row
            if row is None or budget == 0:
                break  # None: preempted by an older one in this very loop, as are all after it
            start = sequence.num_computed_tokens
            in_flight = sequence.num_in_flight
            num_tokens = len(sequence.tokens) + in_flight
            if num_tokens >= sequence.max_num_tokens:
                continue  # its last tokens are in flight
            # The fast path: one output token, which opens no page, and fills none that could be
            # registered yet.
            offset = start % page_size
            is_inside = offset > 0 and (in_flight > 0 or offset < last_slot)
            if is_inside and num_tokens - start == 1 and start >= sequence.num_prompt_tokens:
                sequence.num_computed_tokens = num_tokens
                sequence.num_in_flight = in_flight + 1
                items.append(Scheduled(sequence, row, start, 1, True, False))
                plan.num_decoding += 1
                budget -= 1
                continue
            # Decoding sequences were admitted before any that is still prefilling: the latest
            # admitted are preempted, and nobody is admitted behind a prompt that was cut short.
            wanted, behind = num_tokens - start, self._prefilling()
            num_taken = paced.take(self._pace, plan, sequence, wanted, budget, behind)
            end = start + num_taken
            if num_taken == 0 or not self._grow(sequence, end, plan):
                break
            items.append(self._compute(sequence, row, end, load_row=False))
            budget -= num_taken
        return budget

    def _prefilling(self) -> Iterator[tuple[Sequence, int]]:
        """Those that may be computed now, and the tokens that they need: more than one each."""
        for sequence in reversed(self._running):  # nobody decodes behind them
            missing = sequence.num_tokens - sequence.num_computed_tokens
            if missing <= 1:
                break
            yield sequence, missing
        for sequence in islice(self._waiting, len(self._free_rows)):
            yield sequence, sequence.num_tokens - len(self._cached(sequence)) * self._page_size

    def _admit(self, plan: StepPlan, budget: int) -> int:
        """Adds the waiting to the plan, first come first. Returns what is left of the budget."""
        turns = self.adapter_slots.turns()
        for sequence in list(islice(self._waiting, len(self._free_rows) + _MAX_PASSED)):
            if not self._free_rows or budget <= 0:
                break
            if paced.left(self._pace, plan, sequence, budget, self._prefilling()) == 0:
                break
            if not turns.may_run(sequence.adapter):
                continue
            # A resumed sequence is computed from the host's tokens: all of them must be there.
            if sequence.num_in_flight or not self._acquire(sequence):
                break
            assert len(sequence.tokens) < sequence.max_num_tokens, (
                f"{sequence.request_id} has all its {sequence.max_num_tokens} tokens: end it"
            )
            del self._waiting[sequence]
            self._running[sequence] = None
            row = sequence.row = self._free_rows.pop()
            self._pin(sequence, plan)
            start = sequence.num_computed_tokens
            wanted = len(sequence.tokens) - start
            num_taken = paced.take(self._pace, plan, sequence, wanted, budget, self._prefilling())
            plan.items.append(self._compute(sequence, row, start + num_taken, load_row=True))
            budget -= num_taken
        return budget

    def _pin(self, sequence: Sequence, plan: StepPlan) -> None:
        """Keeps the sequence's adapter in a slot, which the plan fills if it must be."""
        if sequence.adapter is not None:
            sequence.adapter_slot, must_fill = self.adapter_slots.pin(sequence.adapter)
            if must_fill:
                plan.adapter_loads.append((sequence.adapter_slot, sequence.adapter))
                self.num_adapter_loads += 1

    def _compute(self, sequence: Sequence, row: int, end: int, *, load_row: bool) -> Scheduled:
        """Counts the tokens before `end` as computed, and a sample after the last as in flight."""
        start = sequence.num_computed_tokens
        sequence.num_computed_tokens = end
        # Nothing predicts the first token of a prompt, and its last one predicts an output's.
        num_scored = min(end, sequence.num_prompt_tokens - 1) - start if sequence.is_scored else 0
        # The pages are registered before the step has run. Whoever finds them is at the earliest
        # in this same step, in which each layer writes all keys before it reads any.
        filled = slice(start // self._page_size, min(end, len(sequence.tokens)) // self._page_size)
        self.pool.register(sequence.pages[0][filled], sequence.page_hashes[filled])
        samples = end == sequence.num_tokens
        if samples:
            if end == sequence.num_prompt_tokens:
                self.num_prompt_tokens += end
            sequence.num_in_flight += 1
        return Scheduled(sequence, row, start, end - start, samples, load_row, max(0, num_scored))

    def _grow(self, sequence: Sequence, num_tokens: int, plan: StepPlan) -> bool:
        """Gives a running sequence pages, taken from the latest; False if that was itself."""
        num_missing = max(0, -(-num_tokens // self._page_size) - len(sequence.pages[0]))
        while self.pool.num_free < num_missing:
            latest, _ = self._running.popitem()
            self._release(latest)
            self._requeue(latest)
            plan.preempted.append(latest)
            self.num_preemptions += 1
            if latest is sequence:
                return False
        sequence.pages[0] += self.pool.allocate(num_missing)
        return True

    def _requeue(self, sequence: Sequence) -> None:
        """Puts a sequence that was released where it was in the queue, to be computed again."""
        sequence.num_computed_tokens = 0
        sequence.page_hashes.clear()  # `forget` may have outdated them
        # Who was overtaken comes first again.
        older = list(takewhile(lambda other: other.order < sequence.order, self._waiting))
        self._waiting[sequence] = None
        for each in (sequence, *reversed(older)):
            self._waiting.move_to_end(each, last=False)

    def _acquire(self, sequence: Sequence) -> bool:
        """Gives a sequence pages for all its known tokens, those in the prefix cache first.

        All at once, not for the first chunk only: two long prompts admitted on the same free
        pages would preempt each other half-way. And one page for each running sequence stays
        free: without it, who was just admitted is often preempted, and its work lost, as soon as
        an older sequence grows. Sets pages and num_computed_tokens.

        Returns:
          False if there are too few free pages; then the sequence owns none.
        """
        found = self._cached(sequence)
        num_reused = self.pool.retain(found)
        num_new = -(-len(sequence.tokens) // self._page_size) - len(found)
        if self.pool.num_free < num_new + len(self._running):
            self.pool.release(found)
            return False
        sequence.pages = [found + self.pool.allocate(num_new)]
        sequence.num_computed_tokens = len(found) * self._page_size
        self._num_slots_held += num_reused * self._page_size
        if sequence.num_cached_tokens is None:  # the first time
            sequence.num_cached_tokens = sequence.num_computed_tokens
            sequence.first_scheduled_s = self._clock()
            if self._looks_up(sequence):
                self.num_prefix_queries += sequence.num_prompt_tokens
                self.num_prefix_hits += sequence.num_cached_tokens
        return True

    def _cached(self, sequence: Sequence) -> list[int]:
        """The pages of the prefix cache that hold a sequence's beginning."""
        self._prefixes.extend(sequence)
        # The last position must be computed, found or not: what comes next is in its logits.
        max_found = (len(sequence.tokens) - 1) // self._page_size
        return self.pool.lookup(sequence.page_hashes[: max_found * self._looks_up(sequence)])

    def _looks_up(self, sequence: Sequence) -> bool:
        """Whether its prompt may come from the prefix cache: not where each position is scored."""
        return self.config.enable_prefix_caching and sequence.prompt_logprobs is None

    def _release(self, sequence: Sequence) -> None:
        """Frees the pages, the row and the slot of a sequence that no longer runs."""
        assert sequence.row is not None
        if sequence.adapter is not None:
            self.adapter_slots.unpin(sequence.adapter)
            sequence.adapter_slot = NO_SLOT
        num_full, num_in_last = divmod(sequence.num_computed_tokens, self._page_size)
        # Pages that are not full are never shared, so that only full ones can stay used.
        num_kept = len(sequence.pages[0]) - self.pool.release(sequence.pages[0])
        self._num_slots_held -= (num_full - num_kept) * self._page_size + num_in_last
        self._free_rows.append(sequence.row)
        sequence.row = None
        sequence.pages = []
