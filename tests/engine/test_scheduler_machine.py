"""The scheduler under any use: a fake device keeps token ids where a real one keeps keys.

Each step must find its own sequence's tokens in its own pages, whatever was shared, preempted,
aborted, or went wrong on the device before.
"""

import random
import zlib
from collections import deque
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flaxen.engine.adapters.store import ServedAdapter
from flaxen.engine.config import EngineConfig, LoraLimits
from flaxen.engine.pace import Pace
from flaxen.engine.plan import Scheduled, StepPlan
from flaxen.engine.scheduler import Scheduler
from flaxen.engine.sequence import Sequence
from flaxen.protocol import SamplingParams
from tests.engine.groups import full

STOP_TOKEN = 0


def next_token(tokens: list[int]) -> int:
    """What the fake model says, greedily; three tokens only, so that outputs share prefixes too."""
    return zlib.crc32(bytes(tokens)) % 3


@dataclass(eq=False)
class Fault:
    """What a faulty step leaves in a slot, in place of a token."""

    is_reported: bool = False


class FakeEngine:
    """Device and loop: runs each plan at once, and hands its samples over when told to."""

    def __init__(self, config: EngineConfig, pace: Pace | None = None) -> None:
        self.config = config
        self.scheduler = Scheduler(config, pace=pace)
        self.memory: list[int | Fault] = [-1] * (config.groups[0].num_pages * config.page_size)
        self.row_tokens: dict[int, int | Fault] = {}  # the last sampled, which stays on the device
        self.truth: dict[Sequence, list[int]] = {}  # prompt and all samples, delivered or not
        self.distrusted: dict[Sequence, set[Fault]] = {}  # known when it was admitted
        self.reported: set[Fault] = set()
        self.alive: list[Sequence] = []  # in order of arrival
        self.running: list[Sequence] = []  # in the order in which they were admitted
        self.slots: dict[int, ServedAdapter] = {}  # what the device's hold
        self.computed_with: dict[int, ServedAdapter | None] = {}  # each page, by whose keys
        self.ends: dict[Sequence, int] = {}
        self.outstanding: deque[list[tuple[Scheduled, int | Fault, bool]]] = deque()

    def add(
        self, prompt: list[int], sampling: SamplingParams, salt: str = "", *, scored: bool = False,
        adapter: ServedAdapter | None = None,
    ) -> None:  # fmt: skip
        sequence = Sequence(
            request_id=str(len(self.truth)), index=0, sampling=sampling, tokens=list(prompt),
            num_prompt_tokens=len(prompt), cache_salt=salt, prompt_logprobs=1 if scored else None,
            adapter=adapter,
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

    def slot(self, sequence: Sequence, position: int) -> int:
        page_size = self.config.page_size
        return sequence.pages[0][position // page_size] * page_size + position % page_size

    def step(self, fails: bool = False, faulty: int | None = None) -> StepPlan:
        """Plans and runs a step. `fails`: all of it goes wrong; `faulty`: one item does."""
        plan = self.scheduler.schedule()
        for sequence in plan.preempted:
            self.running.remove(sequence)
        self.slots.update(plan.adapter_loads)
        written: dict[int, Scheduled] = {}
        for i, item in enumerate(plan.items):
            sequence, known = item.sequence, len(item.sequence.tokens)
            if item.load_row:
                self.distrusted[sequence] = set(self.reported)
                self.running.append(sequence)
            adapter = sequence.adapter
            assert self.slots.get(sequence.adapter_slot) is adapter, "the slot holds another's"
            for position in range(item.start, item.start + item.num_tokens):
                slot = self.slot(sequence, position)
                assert slot not in written, "two items write the same slot"
                self.computed_with[slot // self.config.page_size] = adapter
                written[slot] = item
                self.memory[slot] = (
                    sequence.tokens[position] if position < known else self.row_tokens[item.row]
                )
                if fails or i == faulty:
                    self.memory[slot] = Fault()
        results = [(item, self.read(item), fails) for item in plan.items]
        if plan.items:
            self.outstanding.append(results)
        return plan

    def read(self, item: Scheduled) -> int | Fault:
        """What an item samples (unused if it does not), after all of the step is written."""
        sequence, end = item.sequence, item.start + item.num_tokens
        slots = [self.slot(sequence, position) for position in range(end)]
        for slot in slots:
            page = slot // self.config.page_size
            assert self.computed_with[page] is sequence.adapter, "another adapter's keys"
        found = [self.memory[slot] for slot in slots]
        faults = [content for content in found if isinstance(content, Fault)]
        if faults:
            assert not self.distrusted[sequence] & set(faults), "read what it was to be kept from"
            for slot in slots[item.start :]:
                self.memory[slot] = faults[0]  # its keys depend on what it read
            if item.samples:
                self.row_tokens[item.row] = faults[0]
            return faults[0]
        assert found == self.truth[sequence][:end], "the pages hold another sequence's tokens"
        token = next_token([content for content in found if isinstance(content, int)])
        if item.samples:
            assert end == len(self.truth[sequence]), "sampled, but not after the last token"
            self.truth[sequence].append(token)
            self.row_tokens[item.row] = token
        return token

    def deliver(self) -> None:
        """The oldest outstanding step's samples reach the host."""
        for item, token, failed in self.outstanding.popleft():
            sequence = item.sequence
            if isinstance(token, Fault) and (item.samples or failed):
                self.scheduler.forget(sequence)
                self.reported.add(token)
                self.end(sequence)
            elif isinstance(token, int) and item.samples:
                self.scheduler.append(sequence, token)
                stops = token == STOP_TOKEN and not sequence.sampling.ignore_eos
                if not sequence.ended and (stops or self.is_full(sequence)):
                    self.end(sequence)

    def lose_memory(self) -> None:
        """The oldest outstanding step took the device's state with it; all others start again."""
        for item, _, _ in self.outstanding.popleft():
            self.end(item.sequence)
        self.outstanding.clear()
        self.memory = [-1] * len(self.memory)
        self.row_tokens.clear()
        self.slots.clear()
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


TOKENS = st.integers(0, 2)
ADAPTERS = [
    ServedAdapter(name=name, rank=1, weights=None, key=f"{name}#0") for name in ("x", "y", "z")
]


class SchedulerMachine(RuleBasedStateMachine):
    """Adds, steps, delivers, aborts and breaks things in any order."""

    @initialize(
        page_size=st.integers(1, 4),
        max_model_len=st.integers(6, 24),
        num_more_pages=st.integers(0, 8),
        max_num_seqs=st.integers(1, 5),
        num_more_tokens=st.integers(0, 12),
        caching=st.sampled_from([True, True, False]),
        depth=st.integers(0, 2),
        max_loras=st.integers(1, 3),
        pace=st.none() | st.integers(1, 8),
    )
    def start(
        self, page_size: int, max_model_len: int, num_more_pages: int, max_num_seqs: int,
        num_more_tokens: int, caching: bool, depth: int,
        max_loras: int, pace: int | None,
    ) -> None:  # fmt: skip
        config = EngineConfig(
            max_model_len=max_model_len,
            groups=full(-(-max_model_len // page_size) + num_more_pages),
            page_size=page_size,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_seqs + num_more_tokens,
            enable_prefix_caching=caching,
            lora=LoraLimits(max_loras=max_loras),
        )
        self.depth = depth
        self.pace = None if pace is None else Pace(1.0, pace)
        self.engine = FakeEngine(config, self.pace)

    @rule(
        prompt=st.lists(TOKENS, min_size=1, max_size=23),
        salt=st.sampled_from(["", "", "b"]),
        max_tokens=st.none() | st.integers(1, 8),
        ignore_eos=st.booleans(),
        scored=st.sampled_from([False, False, True]),
        n=st.integers(1, 3),
        adapter=st.sampled_from([None, None, None, *ADAPTERS]),
    )
    def add(
        self, prompt: list[int], salt: str, max_tokens: int | None, ignore_eos: bool,
        scored: bool, n: int, adapter: ServedAdapter | None,
    ) -> None:  # fmt: skip
        sampling = SamplingParams(max_tokens=max_tokens, ignore_eos=ignore_eos)
        for _ in range(n):
            cut = prompt[: self.engine.config.max_model_len - 1]
            self.engine.add(cut, sampling, salt, scored=scored, adapter=adapter)

    @precondition(lambda self: len(self.engine.outstanding) <= self.depth)
    @rule(
        fails=st.sampled_from([False] * 15 + [True]),
        faulty=st.none() | st.integers(0, 20),
        seconds=st.sampled_from([0.001, 0.1, 10.0]),
    )
    def step(self, fails: bool, faulty: int | None, seconds: float) -> None:
        engine = self.engine
        held, allocated = (
            engine.scheduler.counters.sum_slots_held,
            engine.scheduler.counters.sum_slots_allocated,
        )
        oldest = next(iter([*engine.running, *engine.alive]), None)
        is_ready = oldest is not None and oldest.num_in_flight == 0
        wanting = [
            s for s in engine.running
            if s.num_tokens - s.num_computed_tokens == 1 and s.num_tokens < s.max_num_tokens
        ]  # fmt: skip
        plan = engine.step(fails, faulty)
        sequences = [item.sequence for item in plan.items]
        num_tokens = sum(item.num_tokens for item in plan.items)
        assert num_tokens <= engine.config.max_num_batched_tokens
        assert all(item.num_tokens > 0 for item in plan.items)
        needy = [s for s in wanting if s not in plan.preempted and not s.ended]
        assert set(needy) <= set(sequences), "prompts kept a sequence from its next token"
        if self.pace is not None:
            if needy and plan.num_catching_up:
                assert plan.num_allowed is not None
                assert plan.num_catching_up <= plan.num_allowed
            if plan.items:
                num_scored = sum(item.num_scored for item in plan.items)
                self.pace.observe(num_tokens, num_scored, seconds)
        assert sequences == [s for s in engine.running if s in set(sequences)], "their order"
        self.nobody_was_overtaken(plan)
        assert not set(plan.preempted) & set(sequences)
        if is_ready:
            assert sequences[0] is oldest, "the oldest sequence must always progress"
        if plan.items:
            page_size = engine.config.page_size
            filled = {engine.slot(s, i) for s in engine.alive for i in range(s.num_computed_tokens)
                      if s.row is not None}  # fmt: skip
            assert engine.scheduler.counters.sum_slots_held - held == len(filled)
            num_slots = engine.scheduler.pools.num_used * page_size
            assert engine.scheduler.counters.sum_slots_allocated - allocated == num_slots

    def nobody_was_overtaken(self, plan: StepPlan) -> None:
        """But those who wait for an adapter's slot, while all slots are taken."""
        admitted = {item.sequence for item in plan.items if item.load_row}
        if admitted:
            latest = max(i for i, s in enumerate(self.engine.alive) if s in admitted)
            passed = [s for s in self.engine.alive[:latest] if s.row is None]
            assert all(s.adapter is not None for s in passed)
            num_running = len({s.adapter for s in self.engine.running if s.adapter is not None})
            assert not passed or num_running == self.engine.scheduler.adapter_slots.num_slots

    @precondition(lambda self: self.engine.outstanding)
    @rule()
    def deliver(self) -> None:
        self.engine.deliver()

    @precondition(lambda self: self.engine.outstanding)
    @rule(happens=st.sampled_from([False, False, False, True]))
    def lose_memory(self, happens: bool) -> None:
        if happens:
            self.engine.lose_memory()

    @precondition(lambda self: self.engine.alive)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.engine.end(data.draw(st.sampled_from(self.engine.alive)))

    @invariant()
    def owns_what_it_should(self) -> None:
        engine, scheduler = self.engine, self.engine.scheduler
        scheduler.pools.check_invariants()
        running = engine.running
        assert set(running) == {s for s in engine.alive if s.row is not None}
        adapters = {s.adapter for s in running if s.adapter is not None}
        assert len(adapters) <= scheduler.adapter_slots.num_slots, "more adapters than slots"
        assert set(scheduler.adapter_slots.pinned()) == adapters
        assert scheduler.num_running == len(running)
        assert scheduler.num_waiting == len(engine.alive) - len(running)
        rows = {s.row for s in running}
        assert len(rows) == len(running)
        assert rows <= set(range(engine.config.max_num_seqs))
        owners: dict[int, tuple[Sequence, int]] = {}
        for sequence in engine.truth:
            if sequence not in running:
                assert (sequence.pages, sequence.row, sequence.adapter_slot) == ([], None, -1)
            for i, page in enumerate(sequence.pages[0] if sequence.pages else []):
                other, index = owners.setdefault(page, (sequence, i))
                if other is not sequence:
                    end = (i + 1) * engine.config.page_size
                    assert index == i
                    assert sequence.cache_salt == other.cache_salt
                    assert sequence.adapter is other.adapter
                    assert min(sequence.num_computed_tokens, other.num_computed_tokens) >= end
                    assert sequence.tokens[:end] == other.tokens[:end], "not a shared prefix"
        assert scheduler.pools.num_used == len(owners)

    @invariant()
    def cached_pages_hold_what_their_hash_says(self) -> None:
        page_size, memory = self.engine.config.page_size, self.engine.memory
        for sequence in self.engine.truth:
            for i, content in enumerate(sequence.page_hashes):
                for page in self.engine.scheduler.pools.pools[0].lookup([content]):
                    slots = memory[page * page_size : (page + 1) * page_size]
                    expected = sequence.tokens[i * page_size : (i + 1) * page_size]
                    assert slots == expected or any(isinstance(slot, Fault) for slot in slots)

    def teardown(self) -> None:
        self.engine.drain()


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_ten_thousand_requests_end_once_and_leave_no_page() -> None:
    rng = random.Random(0)
    config = EngineConfig(
        max_model_len=64, groups=full(70), page_size=4, max_num_seqs=32, max_num_batched_tokens=256,
        lora=LoraLimits(max_loras=2),
    )  # fmt: skip
    engine = FakeEngine(config)
    prefixes = [[rng.randrange(3) for _ in range(rng.randint(1, 24))] for _ in range(8)]
    num_added = 0
    while num_added < 10_000 or engine.alive or engine.outstanding:
        while num_added < 10_000 and len(engine.alive) < 64:
            prompt = rng.choice(prefixes) + [rng.randrange(3) for _ in range(rng.randint(0, 6))]
            sampling = SamplingParams(max_tokens=rng.randint(1, 24), ignore_eos=num_added % 2 == 0)
            adapter = rng.choice([None, *ADAPTERS])
            engine.add(prompt, sampling, salt=rng.choice("ab"), adapter=adapter)
            num_added += 1
        if rng.random() < 0.02 and engine.alive:
            engine.end(rng.choice(engine.alive))
        if not engine.step().items or len(engine.outstanding) > 1:
            engine.deliver()
    assert list(engine.ends.values()) == [1] * 10_000
    assert engine.scheduler.counters.num_preemptions > 0
    assert engine.scheduler.counters.num_adapter_loads > 10
    assert engine.scheduler.counters.num_prefix_hits > 0
    assert not engine.scheduler.has_work
    assert engine.scheduler.pools.num_used == 0
    engine.scheduler.pools.check_invariants()
