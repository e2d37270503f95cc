"""The scheduler under any use, of any mix of cache groups, on a device by hand (`device.py`)."""

from typing import Literal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flaxen.models.cache import CacheSpec, Latent, Sliding, State
from flaxen.protocol import SamplingParams
from flaxen.scheduling.adapters.store import ServedAdapter
from flaxen.scheduling.cache.groups import CacheGroup, group_layers, most_pages
from flaxen.scheduling.config import EngineConfig, LoraLimits
from flaxen.scheduling.pace import Pace
from flaxen.scheduling.plan import StepPlan
from flaxen.scheduling.sequence import NO_PAGE
from flaxen.stored_pages.host_tier import HostTier
from flaxen.stored_pages.page_store import PageStore
from tests.scheduling.device import FakeEngine, Fault, check_pages
from tests.scheduling.groups import FULL

TOKENS = st.integers(0, 2)
ADAPTERS = [
    ServedAdapter(name=name, rank=1, weights=None, key=f"{name}#0") for name in ("x", "y", "z")
]
SLIDING = st.builds(Sliding, num_kv_heads=st.just(1), head_dim=st.just(2), window=st.integers(1, 9))
OTHERS = st.just(Latent(rank=3, rope_dim=1)) | st.just(State(shapes=((2, 2),)))
LAYERS = st.just(FULL) | SLIDING | SLIDING | OTHERS
MIXES = st.just([FULL]) | st.lists(LAYERS, min_size=1, max_size=4)


class SchedulerMachine(RuleBasedStateMachine):
    """Adds, steps, guesses, delivers, aborts and breaks things in any order."""

    @initialize(
        specs=MIXES,
        page_size=st.integers(1, 4),
        max_model_len=st.integers(6, 24),
        num_more_pages=st.integers(0, 8),
        max_num_seqs=st.integers(1, 5),
        num_more_tokens=st.integers(0, 12),
        caching=st.sampled_from([True, True, False]),
        depth=st.integers(0, 2),
        max_loras=st.integers(1, 3),
        pace=st.none() | st.integers(1, 8),
        num_stored=st.none() | st.integers(0, 40),
    )
    def start(
        self, specs: list[CacheSpec], page_size: int, max_model_len: int, num_more_pages: int,
        max_num_seqs: int, num_more_tokens: int, caching: bool, depth: int,
        max_loras: int, pace: int | None, num_stored: int | None,
    ) -> None:  # fmt: skip
        chunk = max_num_seqs + num_more_tokens
        groups = tuple(
            CacheGroup(
                spec=spec,
                layers=layers,
                num_pages=most_pages(spec, max_model_len, chunk, page_size) + num_more_pages,
            )
            for spec, layers in group_layers(specs).items()
        )
        config = EngineConfig(
            max_model_len=max_model_len,
            groups=groups,
            page_size=page_size,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=chunk,
            enable_prefix_caching=caching,
            lora=LoraLimits(max_loras=max_loras),
            num_spec_tokens=0 if any(isinstance(spec, State) for spec in specs) else 3,
        )
        self.depth = depth
        self.pace = None if pace is None else Pace(1.0, pace)
        self.store = None
        if num_stored is not None:  # in pages, of which a slot takes 8 bytes
            self.store = PageStore(HostTier(num_stored * 8 * (page_size + 1)), None)
        self.engine = FakeEngine(config, self.pace, self.store)

    @rule(
        prompt=st.lists(TOKENS, min_size=1, max_size=23),
        salt=st.sampled_from(["", "", "b"]),
        max_tokens=st.none() | st.integers(1, 8),
        ignore_eos=st.booleans(),
        scored=st.sampled_from([False, False, True]),
        n=st.integers(1, 3),
        adapter=st.sampled_from([None, None, None, *ADAPTERS]),
        session=st.sampled_from(["a", "b"]),
        retention=st.sampled_from([None, 0.001, 1000.0, 1000.0, "done", "drop"]),
    )
    def add(
        self, prompt: list[int], salt: str, max_tokens: int | None, ignore_eos: bool,
        scored: bool, n: int, adapter: ServedAdapter | None, session: str,
        retention: float | Literal["done", "drop"] | None,
    ) -> None:  # fmt: skip
        sampling = SamplingParams(max_tokens=max_tokens, ignore_eos=ignore_eos)
        for _ in range(n):
            cut = prompt[: self.engine.config.max_model_len - 1]
            self.engine.add(
                cut, sampling, salt, scored=scored, adapter=adapter, session=session,
                retention=retention,
            )  # fmt: skip

    @precondition(lambda self: len(self.engine.outstanding) <= self.depth)
    @rule(
        fails=st.sampled_from([False] * 15 + [True]),
        faulty=st.none() | st.integers(0, 20),
        seconds=st.sampled_from([0.001, 0.1, 10.0]),
        num_drafts=st.sampled_from([0, 0, 1, 3]),
        num_right=st.integers(0, 3),
    )
    def step(
        self, fails: bool, faulty: int | None, seconds: float, num_drafts: int, num_right: int
    ) -> None:
        engine, counters = self.engine, self.engine.scheduler.counters
        held, allocated = counters.sum_slots_held, counters.sum_slots_allocated
        oldest = next(iter([*engine.running, *engine.alive]), None)
        is_ready = oldest is not None and oldest.num_in_flight == 0
        wanting = [
            s for s in engine.running
            if s.num_tokens - s.num_computed_tokens == 1 and s.num_tokens < s.max_num_tokens
        ]  # fmt: skip
        drafts = dict.fromkeys(engine.running, num_drafts) if num_drafts else {}
        plan = engine.step(fails, faulty, drafts, num_right)
        sequences = [item.sequence for item in plan.items]
        num_tokens = sum(item.num_tokens for item in plan.items)
        assert num_tokens <= engine.config.max_num_batched_tokens
        assert all(item.num_tokens > item.num_drafts >= 0 for item in plan.items)
        assert all(item.num_drafts <= drafts.get(item.sequence, 0) for item in plan.items)
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
            num_held, num_used = self.slots()
            assert counters.sum_slots_held - held == num_held
            assert counters.sum_slots_allocated - allocated == num_used

    def slots(self) -> tuple[int, int]:
        """Slots that hold a token of a running sequence, and those of used pages."""
        engine, num_held, num_used = self.engine, 0, 0
        page_size = engine.config.page_size
        for g in engine.of_tokens():
            num_held += len({
                engine.slot(s, g, i)
                for s in engine.running
                for i in range(s.num_computed_tokens)
                if s.pages[g][i // page_size] != NO_PAGE
            })  # fmt: skip
            num_used += engine.scheduler.pools.pools[g].num_used * page_size
        return num_held, num_used

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
        for sequence in set(engine.truth) - set(running):
            assert (sequence.pages, sequence.row, sequence.adapter_slot) == ([], None, -1)

    @invariant()
    def no_more_is_kept_than_may_be(self) -> None:
        for pool in self.engine.scheduler.pools.pools:
            assert pool.num_kept <= pool.num_pages // 2

    @invariant()
    def a_page_is_free_or_owned(self) -> None:
        check_pages(self.engine)

    @invariant()
    def cached_pages_hold_what_their_hash_says(self) -> None:
        page_size, memory = self.engine.config.page_size, self.engine.memory
        for sequence in self.engine.truth:
            for i, content in enumerate(sequence.page_hashes):
                expected = sequence.tokens[i * page_size : (i + 1) * page_size]
                for g, pool in enumerate(self.engine.scheduler.pools.pools):
                    for page in pool.lookup([content]):
                        slots = [memory[g][page * page_size + n] for n in range(page_size)]
                        is_faulty = any(isinstance(slot, Fault) for slot in slots)
                        assert is_faulty or slots == expected

    @rule(happens=st.sampled_from([False, False, False, True]))
    def reset_prefix_cache(self, happens: bool) -> None:
        if happens:
            self.engine.scheduler.drop_prefix_cache()

    def teardown(self) -> None:
        self.engine.drain()
        if self.store is not None:
            self.store.close()


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
