"""A device by hand, and the loop around it: pages keep token ids where a real one keeps keys.

Each step must find its own sequence's tokens wherever its layers look: in all pages of a group
without a window, in those that a window shows, and in a State the tokens before it, in order.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flaxen.protocol import SamplingParams
from flaxen.scheduling.adapters.store import ServedAdapter
from flaxen.scheduling.cache.groups import CacheGroup, first_page, most_pages
from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.pace import Pace
from flaxen.scheduling.plan import Scheduled, StepPlan
from flaxen.scheduling.scheduler import Scheduler
from flaxen.scheduling.sequence import NO_PAGE, Sequence
from flaxen.stored_pages.page_store import FilledPage, PageStore

STOP_TOKEN = 0


def next_token(tokens: list[int]) -> int:
    """What the fake model says, greedily; three tokens only, so that outputs share prefixes too."""
    return zlib.crc32(bytes(tokens)) % 3


@dataclass(eq=False)
class Fault:
    """What a faulty step leaves in a slot, in place of a token."""

    is_reported: bool = False


Content = int | Fault | tuple[int, ...]  # of a slot; of a State, all tokens up to now


@dataclass
class Result:
    """What an item brought, on its way to the host."""

    item: Scheduled
    tokens: list[int]
    num_accepted: int  # of its drafts
    fault: Fault | None
    has_failed: bool  # the whole step


class FakeEngine:
    """Device and loop: runs each plan at once, and hands its samples over when told to."""

    def __init__(
        self, config: EngineConfig, pace: Pace | None = None, store: PageStore | None = None
    ) -> None:
        self.config, self.store = config, store
        self.scheduler = Scheduler(config, pace=pace, store=store)
        self.truth: dict[Sequence, list[int]] = {}  # prompt and all samples, delivered or not
        self.invalidated: dict[Sequence, set[Fault]] = {}  # known when it was admitted
        self.reported: set[Fault] = set()
        self.alive: list[Sequence] = []  # in order of arrival
        self.running: list[Sequence] = []  # in the order in which they were admitted
        self.ends: dict[Sequence, int] = {}
        self.outstanding: deque[list[Result]] = deque()
        self.start_device()

    def start_device(self) -> None:
        """Empties all that the device holds."""
        self.rows: dict[int, list[int | Fault]] = {}  # the tokens, those on the device alone too
        self.slots: dict[int, ServedAdapter] = {}
        self.memory: list[dict[int, Content]] = [{} for _ in self.config.groups]
        # Each page, by whose keys.
        self.computed_with: list[dict[int, ServedAdapter | None]] = [{} for _ in self.memory]

    def add(
        self, prompt: list[int], sampling: SamplingParams, salt: str = "", *, scored: bool = False,
        adapter: ServedAdapter | None = None, session: str = "",
        retention: float | Literal["done", "drop"] | None = None,
    ) -> None:  # fmt: skip
        sequence = Sequence(
            request_id=str(len(self.truth)), index=0, sampling=sampling, tokens=list(prompt),
            num_prompt_tokens=len(prompt), cache_salt=salt, prompt_logprobs=1 if scored else None,
            adapter=adapter, session=(session,), retention=retention,
        )  # fmt: skip
        self.truth[sequence] = list(prompt)
        self.ends[sequence] = 0
        self.alive.append(sequence)
        self.scheduler.add(sequence)

    def end(self, sequence: Sequence) -> None:
        if sequence in self.alive:
            self.alive.remove(sequence)
            self.ends[sequence] += 1
        if sequence in self.running:
            self.running.remove(sequence)
        self.scheduler.end(sequence)

    def slot(self, sequence: Sequence, group: int, position: int) -> int:
        page_size = self.config.page_size
        page = sequence.pages[group][position // page_size]
        assert page != NO_PAGE, "a page behind the window is used"
        return page * page_size + position % page_size

    def step(
        self,
        fails: bool = False,
        faulty: int | None = None,
        drafts: Mapping[Sequence, int] | None = None,
        num_right: int = 0,
    ) -> StepPlan:
        """Plans and runs a step.

        Args:
          fails: all of it goes wrong.
          faulty: this item does.
          drafts: how many tokens are guessed for whom.
          num_right: of each sequence's drafts, how many are what the model will say.
        """
        filled = self.scheduler.pools.stored.take_filled()
        plan = self.scheduler.schedule(drafts or {})
        for sequence in plan.preempted:
            self.running.remove(sequence)
        if self.store is not None:
            self.copy_pages(filled)
        self.slots.update(plan.adapter_loads)
        jobs = [self.start(item, num_right) for item in plan.items]
        written: set[tuple[int, int]] = set()
        for i, (item, tokens, start) in enumerate(jobs):
            self.write(item, tokens, start, written, fails=fails or i == faulty)
        results = [self.read(item, tokens, start, fails) for item, tokens, start in jobs]
        if plan.items:
            self.outstanding.append(results)
        return plan

    def copy_pages(self, filled: list[FilledPage]) -> None:
        """To the store and back, before a step: a page's slots, and whose keys they are."""
        assert self.store is not None
        stored, size = self.scheduler.pools.stored, self.config.page_size
        read: list[list[np.ndarray]] = [[] for _ in self.config.groups]
        for each in filled:
            slots = [self.memory[each.group][each.page * size + i] for i in range(size)]
            row = np.empty(size + 1, object)
            row[:] = [self.computed_with[each.group][each.page], *slots]
            read[each.group].append(row)
        self.store.put(filled, lambda: read)  # type: ignore[arg-type, return-value]  # of bytes
        stored.report_ended()
        self.store.flush()
        for load in stored.take_loads():
            adapter, *slots = load.content
            self.computed_with[load.group][load.page] = adapter
            self.memory[load.group] |= {load.page * size + i: each for i, each in enumerate(slots)}

    def start(self, item: Scheduled, num_right: int) -> tuple[Scheduled, list[int | Fault], int]:
        """The tokens up to an item's last, drafts included, and where it begins on the device."""
        sequence = item.sequence
        if item.load_row:
            self.invalidated[sequence] = set(self.reported)
            self.running.append(sequence)
            self.rows[item.row] = list(sequence.tokens)
        assert self.slots.get(sequence.adapter_slot) is sequence.adapter, "another's slot"
        tokens, start = list(self.rows[item.row]), item.start
        if item.samples:  # drafts in flight may have been rejected, of which the plan knows nothing
            start = len(tokens) - (item.num_tokens - item.num_drafts)
            assert start <= item.start <= start + sequence.num_rejectable
        known = list(self.truth[sequence])
        for i in range(item.num_drafts):
            known.append((next_token(known) + (i >= num_right)) % 3)
            tokens.append(known[-1])
        return item, tokens[: start + item.num_tokens], start

    def write(
        self, item: Scheduled, tokens: list[int | Fault], start: int,
        written: set[tuple[int, int]], *, fails: bool,
    ) -> None:  # fmt: skip
        """Each token to its slot in each group that keeps tokens."""
        for g in self.of_tokens():
            for position in range(start, len(tokens)):
                slot = self.slot(item.sequence, g, position)
                assert (g, slot) not in written, "two items write the same slot"
                written.add((g, slot))
                self.memory[g][slot] = Fault() if fails else tokens[position]
                page = slot // self.config.page_size
                self.computed_with[g][page] = item.sequence.adapter
        for g in self.of_sequences():
            if start == 0:
                self.memory[g][item.sequence.pages[g][0]] = ()
            if fails:
                self.memory[g][item.sequence.pages[g][0]] = Fault()

    def read(self, item: Scheduled, tokens: list[int | Fault], start: int, fails: bool) -> Result:
        """What an item samples, after all of the step is written."""
        sequence = item.sequence
        faults = [token for token in tokens if isinstance(token, Fault)]
        for g, group in enumerate(self.config.groups):
            found, expected = self.look(sequence, g, group, tokens, start)
            faults += [content for content in found if isinstance(content, Fault)]
            assert faults or found == expected, f"group {g} holds another sequence's tokens"
        if faults:
            assert not self.invalidated[sequence] & set(faults), "read what it was to be kept from"
            for g in self.of_tokens():  # its keys depend on what it read
                for position in range(start, len(tokens)):
                    self.memory[g][self.slot(sequence, g, position)] = faults[0]
            for g in self.of_sequences():
                self.memory[g][sequence.pages[g][0]] = faults[0]
            if item.samples:
                self.rows[item.row].append(faults[0])
            return Result(item, [], 0, faults[0], fails)
        for g in self.of_sequences():
            self.memory[g][sequence.pages[g][0]] = tuple(self.truth[sequence][: len(tokens)])
        sampled = self.sample(item, tokens) if item.samples else []
        return Result(item, sampled, max(0, len(sampled) - 1), None, fails)

    def look(
        self, sequence: Sequence, g: int, group: CacheGroup, tokens: list[int | Fault], start: int
    ) -> tuple[list[Content], list[Content]]:
        """What an item's layers find in a group, and what they should."""
        if not group.keeps_tokens:
            return [self.memory[g][sequence.pages[g][0]]], [tuple(self.truth[sequence][:start])]
        first = 0 if group.window is None else max(0, start - group.window + 1)
        slots = [self.slot(sequence, g, position) for position in range(first, len(tokens))]
        for slot in slots:
            page = slot // self.config.page_size
            assert self.computed_with[g][page] is sequence.adapter, "another adapter's keys"
        num_known = len(self.truth[sequence])
        expected = [*self.truth[sequence][first : len(tokens)], *tokens[num_known:]]
        return [self.memory[g][slot] for slot in slots], expected

    def sample(self, item: Scheduled, tokens: list[int | Fault]) -> list[int]:
        """The drafts that the model would say too, and the token that it says after them."""
        truth = self.truth[item.sequence]
        sampled = []
        for draft in [*tokens[len(truth) :], None]:
            sampled.append(next_token(truth + sampled))
            if draft != sampled[-1]:
                break
        assert len(tokens) - item.num_drafts == len(truth), "sampled, but not after the last token"
        truth += sampled
        self.rows[item.row] += sampled
        return sampled

    def of_tokens(self) -> list[int]:
        return [g for g, group in enumerate(self.config.groups) if group.keeps_tokens]

    def of_sequences(self) -> list[int]:
        return [g for g, group in enumerate(self.config.groups) if not group.keeps_tokens]

    def deliver(self) -> None:
        """The oldest outstanding step's samples reach the host."""
        for result in self.outstanding.popleft():
            item, sequence = result.item, result.item.sequence
            if result.fault is not None and (item.samples or result.has_failed):
                self.scheduler.invalidate(sequence)
                self.reported.add(result.fault)
                self.end(sequence)
            if result.fault is None and item.samples:
                self.scheduler.settle_drafts(sequence, item.num_drafts, result.num_accepted)
            for token in result.tokens:
                self.scheduler.append(sequence, token)
                stops = token == STOP_TOKEN and not sequence.sampling.ignore_eos
                if not sequence.ended and (stops or self.is_full(sequence)):
                    self.end(sequence)

    def lose_memory(self) -> None:
        """The oldest outstanding step took the device's state with it; all others start again."""
        for result in self.outstanding.popleft():
            self.end(result.item.sequence)
        self.outstanding.clear()
        self.start_device()
        self.running.clear()
        for sequence in self.alive:
            self.truth[sequence] = list(sequence.tokens)
        self.scheduler.reset()

    def is_full(self, sequence: Sequence) -> bool:
        max_tokens = sequence.sampling.max_tokens
        is_long = len(sequence.tokens) == self.config.max_model_len
        return is_long or len(sequence.tokens) - sequence.num_prompt_tokens == max_tokens

    def drain(self) -> None:
        """Runs until everything has ended, within what it may take if only the oldest moves."""
        for _ in range(12 * self.config.max_model_len * len(self.alive) + 4):
            if not self.alive and not self.outstanding:
                break
            if not self.step().items or len(self.outstanding) > 2:
                self.deliver()
        assert not self.alive, f"{len(self.alive)} sequences starve"
        assert not self.scheduler.has_work
        assert self.scheduler.pools.num_used == 0
        assert set(self.ends.values()) <= {1}, "a sequence did not end exactly once"


def check_pages(engine: FakeEngine) -> None:
    """Each page is free or owned, by several only as a shared prefix."""
    engine.scheduler.pools.check_invariants()
    page_size = engine.config.page_size
    for g, group in enumerate(engine.config.groups):
        owners: dict[int, tuple[Sequence, int]] = {}
        for sequence in engine.running:
            _check_owned(engine.config, group, sequence, sequence.pages[g])
            for i, page in enumerate(sequence.pages[g]):
                if page == NO_PAGE:
                    continue
                other, index = owners.setdefault(page, (sequence, i))
                if other is not sequence:
                    end = (i + 1) * page_size
                    assert group.keeps_tokens, "a State has two owners"
                    assert index == i
                    assert sequence.cache_salt == other.cache_salt
                    assert sequence.adapter is other.adapter
                    assert min(sequence.num_computed_tokens, other.num_computed_tokens) >= end
                    assert sequence.tokens[:end] == other.tokens[:end], "not a shared prefix"
        assert engine.scheduler.pools.pools[g].num_used == len(owners)


def _check_owned(
    config: EngineConfig, group: CacheGroup, sequence: Sequence, pages: list[int]
) -> None:
    """A sequence owns all that its next token sees, and no more than a window and a chunk."""
    num_owned = len(pages) - pages.count(NO_PAGE)
    chunk, page_size = config.max_num_batched_tokens, config.page_size
    assert num_owned <= most_pages(group.spec, config.max_model_len, chunk, page_size)
    if group.keeps_tokens:
        next_position = sequence.num_computed_tokens - sequence.num_rejectable
        first = first_page(group.window, next_position, page_size)
        assert len(pages) * page_size >= sequence.num_computed_tokens
        assert NO_PAGE not in pages[first:]
