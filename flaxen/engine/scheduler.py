"""Decides which tokens the next step computes, and in which pages.

One rule: a sequence's num_computed_tokens chases its num_tokens, under one token budget a step.
There is no prefill phase and no decode phase; but a pace may bound how many prompt tokens are
computed beside sequences that only need their next one. The engine plans step N+1 before step N's
tokens reach the host, so `schedule` counts a step's tokens as computed, and its samples as in
flight, at once: steps run on the device in the order in which they were planned.

Knows: sequences, who gets pages first, rows, adapter slots, the budget, the pace.
Deliberately does not know: which pages a kind of cache needs (`cache/pools`), token texts, stop
conditions, sampling, the device, JAX.

Invariants:
  - The running own their pages and one row each, and a slot holds their adapter; who waits or has
    ended owns nothing.
  - Whoever runs longest always gets what it needs, so that nobody starves: pages are taken from
    the latest admitted, and who waits is admitted first come, first served. Only who waits for an
    adapter's slot is overtaken, and not for ever: `adapter_slots.Turns`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from flaxen.engine import paced
from flaxen.engine.adapters.slots import AdapterSlots
from flaxen.engine.admission import Admission
from flaxen.engine.cache.pools import Pools
from flaxen.engine.config import EngineConfig
from flaxen.engine.counters import Counters
from flaxen.engine.pace import Pace
from flaxen.engine.plan import Scheduled, StepPlan
from flaxen.engine.running import Running
from flaxen.engine.sequence import Sequence
from flaxen.engine.waiting import Waiting

_NO_DRAFTS: Mapping[Sequence, int] = {}


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
        self.pools = Pools(config)
        self.adapter_slots = AdapterSlots(config.lora.max_loras if config.lora is not None else 0)
        self.counters = Counters()
        self._page_size = config.page_size
        self._running = Running(config.max_num_seqs, self.pools, self.adapter_slots, self.counters)
        self._waiting = Waiting()
        self._admission = Admission(
            self._waiting,
            self._running,
            self.pools,
            self.adapter_slots,
            pace=pace,
            page_size=config.page_size,
            counters=self.counters,
            clock=clock,
        )

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
        return self._waiting.snapshot()

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
        self._waiting.add(sequence)

    def schedule(self, drafts: Mapping[Sequence, int] = _NO_DRAFTS) -> StepPlan:
        """Plans the next step, as if all steps planned before were done.

        Args:
          drafts: how many tokens are guessed for a sequence that needs its next one. The step
            computes as many of them as it has room for; `settle_drafts` then takes what became of
            them.

        Returns:
          The plan; without items if there is nothing to compute before tokens in flight arrive.
        """
        plan = StepPlan()
        allowed = self.config.max_num_batched_tokens
        budget = self._schedule_running(plan, allowed, drafts)
        if self._waiting and not plan.preempted:  # else nobody has a page to spare
            budget = self._admission.admit(plan, budget)
        if plan.items:
            num_held, num_allocated = self.pools.count_step(allowed - budget)
            self.counters.sum_slots_held += num_held
            self.counters.sum_slots_allocated += num_allocated
        return plan

    def append(self, sequence: Sequence, token_id: int) -> None:
        """Takes a sampled token that reached the host; one of a sequence that ended is ignored."""
        if sequence.ended:
            return
        assert sequence.num_in_flight > 0, f"{sequence.request_id}: no token is in flight"
        sequence.num_in_flight -= 1
        sequence.tokens.append(token_id)
        # The page that this token fills is registered now, or when the token is scheduled.
        if len(sequence.tokens) % self._page_size == 0 and sequence.row is not None:
            self.pools.register(sequence)

    def settle_drafts(self, sequence: Sequence, num_drafts: int, num_accepted: int) -> None:
        """Takes what became of a step's drafts, before the tokens that it sampled are appended.

        Those that were rejected were never computed nor sampled.

        Args:
          sequence: one that ended is ignored.
          num_drafts: as the step was planned.
          num_accepted: of these.
        """
        if sequence.ended or num_drafts == 0:
            return
        self.counters.num_draft_tokens += num_drafts
        self.counters.num_accepted_tokens += num_accepted
        num_rejected = num_drafts - num_accepted
        sequence.num_in_flight -= num_rejected
        if sequence.row is not None:  # else it was preempted, and is computed again
            num_tokens = sequence.num_computed_tokens - num_rejected
            self.pools.roll_back(sequence, num_tokens)
            sequence.num_computed_tokens = num_tokens
            sequence.num_rejectable -= num_drafts

    def end(self, sequence: Sequence) -> None:
        """Removes a sequence, wherever it is, and frees all it owns. Repeated calls do nothing."""
        sequence.ended = True
        if sequence in self._running:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)

    def reset(self) -> None:
        """Preempts all that run and empties the prefix cache: the device lost what its pages held.

        Tokens still in flight will never arrive: they are sampled anew.
        """
        while self._running:
            self._requeue(self._running.remove_latest())
        for waiting in self._waiting:
            waiting.num_in_flight = 0
        self.pools.reset_cache()
        self.adapter_slots.reset()

    def drop_prefix_cache(self) -> None:
        """Keeps all pages filled so far from all that are admitted from now on.

        Sequences that run keep theirs, and what they add to them is not found either.
        """
        self.pools.drop_prefixes(self._waiting)

    def forget(self, sequence: Sequence) -> None:
        """Keeps the pages that a sequence may have filled from all that are admitted from now on.

        For one whose step failed, or whose logits are not finite; it may have ended. Which pages
        are bad, and who has built on them since, can't be told: all pages under its salt are left
        behind, and are evicted as pages are needed.
        """
        self.pools.distrust(sequence.cache_salt, self._waiting)

    def _schedule_running(self, plan: StepPlan, budget: int, drafts: Mapping[Sequence, int]) -> int:
        """Adds the running to the plan, oldest first. Returns what is left of the budget."""
        page_size = self._page_size
        last_slot = page_size - 1
        items = plan.items
        spare = budget - len(self._running)  # each gets one token before any gets drafts
        for sequence in list(self._running):
            row = sequence.row
            if row is None or budget == 0:
                break  # None: preempted by an older one in this very loop, as are all after it
            start = sequence.num_computed_tokens
            in_flight = sequence.num_in_flight
            if in_flight and sequence.waits_for_tokens:
                continue
            num_tokens = len(sequence.tokens) + in_flight
            if num_tokens >= sequence.max_num_tokens:
                continue  # its last tokens are in flight
            # The fast path: one output token, which opens no page, and fills none that could be
            # registered yet.
            offset = start % page_size
            is_inside = offset > 0 and (in_flight > 0 or offset < last_slot)
            if (
                is_inside
                and num_tokens - start == 1
                and start >= sequence.num_prompt_tokens
                and not drafts
            ):
                sequence.num_computed_tokens = num_tokens
                sequence.num_in_flight = in_flight + 1
                items.append(Scheduled(sequence, row, start, 1, True, False))
                plan.num_decoding += 1
                budget -= 1
                continue
            # Decoding sequences were admitted before any that is still prefilling: the latest
            # admitted are preempted, and nobody is admitted behind a prompt that was cut short.
            wanted, behind = num_tokens - start, self._admission.prefilling()
            num_taken = paced.take(self._pace, plan, sequence, wanted, budget, behind)
            num_drafts = 0
            if drafts and wanted == 1:
                num_drafts = min(drafts.get(sequence, 0), self._most_drafts(sequence, spare))
                if not self.pools.grow(sequence, start + 1 + num_drafts):
                    num_drafts = 0  # nobody is preempted for a guess
            end = start + num_taken + num_drafts
            if num_taken == 0 or not self._grow(sequence, end, plan):
                break
            items.append(self._running.compute(sequence, end, num_drafts=num_drafts))
            plan.num_decoding += num_drafts
            budget -= num_taken + num_drafts
            spare -= num_drafts
        return budget

    def _most_drafts(self, sequence: Sequence, spare: int) -> int:
        """How many drafts of a sequence the step may compute; `spare` tokens nobody needs."""
        num_more = sequence.max_num_tokens - sequence.num_tokens - 1
        # So many tokens behind the accepted ones, and no more, can a chunk have.
        num_open = self.config.max_num_batched_tokens - 1 - sequence.num_rejectable
        most = min(spare, num_more, num_open) if self.pools.can_roll_back else 0
        return max(0, most)

    def _grow(self, sequence: Sequence, num_tokens: int, plan: StepPlan) -> bool:
        """Gives a running sequence pages, taken from the latest; False if that was itself."""
        while not self.pools.grow(sequence, num_tokens):
            latest = self._running.remove_latest()
            self._requeue(latest)
            plan.preempted.append(latest)
            self.counters.num_preemptions += 1
            if latest is sequence:
                return False
        return True

    def _requeue(self, sequence: Sequence) -> None:
        """Lets a sequence that was preempted wait, to be computed again."""
        sequence.num_computed_tokens = 0
        sequence.page_hashes.clear()  # `forget` may have outdated them
        self._waiting.put_back(sequence)
