"""Plans steps: decides which tokens each one computes, and in which pages.

One rule: a sequence's num_computed_tokens chases its num_tokens, under one token budget for each
step. There is no prefill phase and no decode phase, but a pace may limit the prompt tokens of a
step in which other sequences decode. The engine plans step N+1 before step N's tokens reach the
host. So `schedule` immediately marks a step's tokens as computed and its samples as in flight; this
is right because the device runs steps in the order of their planning.

Knows: sequences, the priority of pages, rows, adapter slots, the budget, the pace.
Deliberately does not know: which pages a kind of cache needs (`cache/pools`), token texts, stop
conditions, sampling, the device, JAX.

Invariants:
  - A running sequence owns its pages and a row, and its adapter is in a slot. A waiting or ended
    sequence owns nothing.
  - The sequence that was admitted first always gets what it needs, so that none starves: pages are
    taken from the most recently admitted ones, and waiting sequences are admitted first come, first
    served. A sequence is only overtaken by those of a lower priority, and while it waits for an
    adapter's slot, which is not for ever (`adapters/slots.SlotQueue`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from flaxen.scheduling import paced
from flaxen.scheduling.adapters.slots import AdapterSlots
from flaxen.scheduling.admission import Admission
from flaxen.scheduling.cache.pools import Pools
from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.counters import Counters
from flaxen.scheduling.pace import Pace
from flaxen.scheduling.plan import Scheduled, StepPlan
from flaxen.scheduling.running import Running
from flaxen.scheduling.sequence import Sequence
from flaxen.scheduling.waiting import Waiting
from flaxen.stored_pages.page_store import PageStore

_NO_DRAFTS: Mapping[Sequence, int] = {}


class Scheduler:
    """Plans steps. Only one thread at a time may call it.

    Args:
      config: the sizes.
      pace: limits prompt tokens in steps where others decode; None leaves only the budget.
      store: keeps pages elsewhere too; None: nothing does.
      publish: gets vLLM's KV events; None: nobody does.
      clock: monotonic seconds, for Sequence.first_scheduled_s.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        pace: Pace | None = None,
        store: PageStore | None = None,
        publish: Callable[[list[dict[str, Any]]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config, self._pace = config, pace
        self.pools = Pools(config, store, publish, clock)
        self.adapter_slots = AdapterSlots(config.lora.max_loras if config.lora is not None else 0)
        self.counters = Counters(accepted_per_pos=[0] * config.num_spec_tokens)
        self._page_size = config.page_size
        self._running = Running(config.max_num_seqs, self.pools, self.adapter_slots, self.counters)
        self._waiting = Waiting()
        self._admission = Admission(
            waiting=self._waiting,
            running=self._running,
            pools=self.pools,
            adapter_slots=self.adapter_slots,
            pace=pace,
            page_size=config.page_size,
            whole_prompts=config.whole_prompts,
            counters=self.counters,
            clock=clock,
        )

    @property
    def num_running(self) -> int:
        """Sequences that own pages, including those that only wait for tokens in flight."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that were never admitted, or were preempted."""
        return len(self._waiting)

    def running(self) -> tuple[Sequence, ...]:
        """The running sequences, oldest first."""
        return tuple(self._running)

    @property
    def num_admissible(self) -> int:
        """The most sequences that the next step may admit."""
        return min(len(self._waiting), self._running.num_free_rows)

    def waiting(self) -> tuple[Sequence, ...]:
        """All waiting sequences, in any order. Safe to call from any thread."""
        return self._waiting.snapshot()

    @property
    def has_work(self) -> bool:
        """Whether a sequence has not ended."""
        return bool(self._running or self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Queues a new sequence of a checked request. Sets its max_num_tokens."""
        most = self.config.max_model_len
        if sequence.pooling is not None:  # it gets no output token, for which there may be no room
            most = sequence.num_prompt_tokens + 1
        else:
            assert len(sequence.tokens) < most, "a prompt without room for an output token"
            if (max_tokens := sequence.sampling.max_tokens) is not None:
                most = min(most, sequence.num_prompt_tokens + max_tokens)
        sequence.max_num_tokens = most
        self._waiting.add(sequence)

    def schedule(self, drafts: Mapping[Sequence, int] = _NO_DRAFTS) -> StepPlan:
        """Plans the next step, as if all earlier steps had finished.

        Args:
          drafts: the number of draft tokens of sequences that need only their next token. The step
              computes as many of them as it has room for; `settle_drafts` reports the result.

        Returns:
          The plan; it has no items if nothing can be computed before tokens in flight arrive.
        """
        self.pools.retention.expire()
        plan, num_prompts = StepPlan(), self.counters.num_prompts
        allowed = self.config.max_num_batched_tokens
        budget = self._schedule_running(plan, allowed, drafts)
        if self._waiting and not plan.preempted:  # else nobody has a page to spare
            budget = self._admission.admit(plan, budget)
        if plan.items:
            num_held, num_allocated = self.pools.count_step(allowed - budget)
            # A decoding sequence computes the token before the one that it gets, and so stands for
            # one; a prompt's first token comes on top.
            self.counters.count_step(allowed - budget + self.counters.num_prompts - num_prompts)
            self.counters.sum_slots_held += num_held
            self.counters.sum_slots_allocated += num_allocated
        return plan

    def wait_for_pages(self, timeout_s: float) -> None:
        """Waits until the first waiting sequence has its stored pages, or so long."""
        for sequence in islice(self._waiting, 1):
            if sequence.fetched is not None:
                sequence.fetched.wait(timeout_s)

    def append(self, sequence: Sequence, token_id: int) -> None:
        """Appends a sampled token that reached the host; ignored if the sequence has ended."""
        if sequence.ended:
            return
        assert sequence.num_in_flight > 0, f"{sequence.request_id}: no token is in flight"
        sequence.num_in_flight -= 1
        sequence.tokens.append(token_id)
        # The page that this token fills is registered now, or when the token is scheduled.
        if len(sequence.tokens) % self._page_size == 0 and sequence.row is not None:
            self.pools.register(sequence)

    def settle_drafts(self, sequence: Sequence, num_drafts: int, num_accepted: int) -> None:
        """Reports which drafts of a step were accepted, before its sampled tokens are appended.

        Rejected drafts then count as neither computed nor sampled.

        Args:
          sequence: ignored if it has ended.
          num_drafts: the drafts in the step's plan.
          num_accepted: how many of these were accepted.
        """
        if sequence.ended or num_drafts == 0:
            return
        self.counters.count_draft(num_drafts, num_accepted)
        num_rejected = num_drafts - num_accepted
        sequence.num_in_flight -= num_rejected
        if sequence.row is not None:  # otherwise it was preempted, and is computed again
            num_tokens = sequence.num_computed_tokens - num_rejected
            self.pools.roll_back(sequence, num_tokens)
            sequence.num_computed_tokens = num_tokens
            sequence.num_rejectable -= num_drafts

    def end(self, sequence: Sequence) -> None:
        """Removes a running or waiting sequence and frees what it owns. May be repeated."""
        has_ended, sequence.ended = sequence.ended, True
        if sequence in self._running:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)
        if not has_ended:
            self.pools.retain(sequence)
            self.pools.stored.end(sequence, len(self.config.groups))

    def reset(self) -> None:
        """Preempts all running sequences and empties the prefix cache: the device lost its pages.

        Tokens still in flight will never arrive: they are sampled again.
        """
        while self._running:
            self._requeue(self._running.remove_latest())
        for waiting in self._waiting:
            waiting.num_in_flight = 0
        self.pools.reset_cache()
        self.adapter_slots.reset()

    def drop_prefix_cache(self, *, weights_version: int | None = None) -> None:
        """Invalidates all cached pages for sequences that are admitted from now on.

        Running sequences keep their pages, and pages that they fill later are not shared either.

        Args:
          weights_version: that of the weights from now on; None: the same.
        """
        self.pools.invalidate_all(self._waiting, weights_version=weights_version)

    def invalidate(self, sequence: Sequence) -> None:
        """Invalidates the cached pages that a sequence may have filled.

        To be called for a sequence whose step failed or whose logits are not finite, even if it has
        ended. It can't be told which pages are bad, or which others were computed from them, so all
        pages under its cache salt are invalidated, and evicted as pages are needed.
        """
        self.pools.invalidate(sequence.cache_salt, self._waiting)

    def _schedule_running(self, plan: StepPlan, budget: int, drafts: Mapping[Sequence, int]) -> int:
        """Adds running sequences to the plan, oldest first. Returns the rest of the budget."""
        page_size = self._page_size
        last_slot = page_size - 1
        items = plan.items
        # Every sequence gets one token before any gets drafts, also one that is admitted now.
        spare = min(budget, self.config.max_sampled - self.num_admissible) - len(self._running)
        for sequence in list(self._running):
            row = sequence.row
            if row is None or budget == 0:
                break  # None: an older sequence has just preempted it and all after it
            start = sequence.num_computed_tokens
            in_flight = sequence.num_in_flight
            if in_flight and sequence.waits_for_tokens:
                continue
            num_tokens = len(sequence.tokens) + in_flight
            if num_tokens >= sequence.max_num_tokens:
                continue  # only tokens in flight are missing
            # The fast path: one output token, which needs no new page and completes none that could
            # be registered.
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
            # Decoding sequences were admitted before any that is still prefilling: the most
            # recently admitted are preempted first, and none is admitted after a prompt whose chunk
            # was limited.
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
        """The most drafts of a sequence in the step, of which `spare` tokens are free."""
        num_more = sequence.max_num_tokens - sequence.num_tokens - 1
        # A chunk can't have more tokens than this after the accepted ones.
        num_open = self.config.max_num_batched_tokens - 1 - sequence.num_rejectable
        most = min(spare, num_more, num_open) if self.pools.can_roll_back else 0
        return max(0, most)

    def _grow(self, sequence: Sequence, num_tokens: int, plan: StepPlan) -> bool:
        """Allocates pages to a running sequence, preempting the most recently admitted ones.
        Returns False if it was preempted itself.
        """
        while not self.pools.grow(sequence, num_tokens):
            latest = self._running.remove_latest()
            self._requeue(latest)
            plan.preempted.append(latest)
            latest.num_preemptions += 1
            self.counters.num_preemptions += 1
            if latest is sequence:
                return False
        return True

    def _requeue(self, sequence: Sequence) -> None:
        """Returns a preempted sequence to the waiting ones, to be computed again."""
        sequence.num_computed_tokens = 0
        sequence.page_hashes.clear()  # they may have been invalidated
        sequence.fetched = None
        self._waiting.put_back(sequence)
