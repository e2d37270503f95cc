"""The scheduler when something gives way: preemption, early ends, pages that went bad."""

import pytest

from flaxen.protocol import SamplingParams
from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.plan import StepPlan
from flaxen.scheduling.scheduler import Scheduler
from flaxen.scheduling.sequence import Sequence
from tests.scheduling.groups import full


def scheduler(
    *, num_pages: int = 64, max_num_batched_tokens: int = 64, max_model_len: int = 32
) -> Scheduler:
    config = EngineConfig(
        max_model_len=max_model_len,
        groups=full(num_pages),
        page_size=4,
        max_num_seqs=8,
        max_num_batched_tokens=max_num_batched_tokens,
    )
    return Scheduler(config)


def sequence(prompt: range, max_tokens: int = 16, salt: str = "") -> Sequence:
    return Sequence(
        request_id=f"r{prompt}",
        index=0,
        sampling=SamplingParams(max_tokens=max_tokens),
        tokens=list(prompt),
        num_prompt_tokens=len(prompt),
        cache_salt=salt,
    )


def parts(plan: StepPlan) -> list[tuple[int, int, bool, bool]]:
    return [(item.start, item.num_tokens, item.samples, item.load_row) for item in plan.items]


def deliver(scheduler: Scheduler, plan: StepPlan) -> None:
    for item in plan.items:
        if item.samples:
            scheduler.append(item.sequence, 999)


def run_out_of_pages(s: Scheduler, *sequences: Sequence) -> tuple[list[StepPlan], StepPlan]:
    """Steps ahead, delivering nothing, until a sequence is preempted."""
    for each in sequences:
        s.add(each)
    plans = []
    while not (plan := s.schedule()).preempted:
        plans.append(plan)
    return plans, plan


def test_the_latest_is_preempted_and_resumed_when_its_tokens_are_known() -> None:
    s = scheduler(num_pages=4, max_model_len=16)
    a, b = sequence(range(4)), sequence(range(100, 104))
    plans, plan = run_out_of_pages(s, a, b)
    assert plan.preempted == [b]
    assert [item.sequence for item in plan.items] == [a]
    assert (b.row, b.pages, b.num_computed_tokens) == (None, [], 0)
    assert (s.counters.num_preemptions, s.num_running, s.num_waiting) == (1, 1, 1)
    s.end(a)
    for each in plans:
        assert s.schedule().items == []  # some of its tokens are on the device
        deliver(s, each)
    num_prompt_tokens = s.counters.num_prompt_tokens
    [item] = s.schedule().items
    assert (item.sequence, item.load_row, item.samples) == (b, True, True)
    assert item.start + item.num_tokens == len(b.tokens) > 4
    assert item.start > 0  # pages of its own are still cached
    assert b.num_cached_tokens == 0  # of the first time
    assert (s.counters.num_prompt_tokens, s.counters.num_prefix_queries) == (num_prompt_tokens, 8)


def test_a_complete_sequence_that_is_not_ended_is_our_own_bug() -> None:
    s = scheduler(num_pages=4, max_model_len=16)
    a, b = sequence(range(4)), sequence(range(100, 104), max_tokens=5)
    plans, plan = run_out_of_pages(s, a, b)
    assert plan.preempted == [b]
    s.end(a)
    for each in plans:
        deliver(s, each)
    with pytest.raises(AssertionError, match="has all its 9 tokens: end it"):
        s.schedule()


def test_a_sequence_that_finds_no_page_preempts_itself_if_it_is_the_latest() -> None:
    s = scheduler(num_pages=4, max_model_len=16)
    a, b = sequence(range(2)), sequence(range(100, 104))  # b needs its next page first
    s.add(a)
    s.add(b)
    s.schedule()
    s.pools.pools[0].allocate(2)  # somebody else's
    plan = s.schedule()
    assert ([item.sequence for item in plan.items], plan.preempted) == ([a], [b])


def test_nobody_overtakes_the_preempted() -> None:
    s = scheduler(num_pages=4, max_model_len=16)
    a, b, c = sequence(range(4)), sequence(range(100, 104)), sequence(range(200, 202))
    plans, _ = run_out_of_pages(s, a, b, c)
    s.end(a)
    assert s.schedule().items == []
    for plan in plans:
        deliver(s, plan)
    assert s.schedule().items[0].sequence is b


def test_a_prompt_is_admitted_only_if_all_of_it_fits_and_the_running_can_grow() -> None:
    s = scheduler(num_pages=8, max_num_batched_tokens=10)
    a, b = sequence(range(4), max_tokens=1), sequence(range(100, 128))
    s.add(a)
    s.add(b)  # 7 pages: they are free, but then none is left for `a`
    assert [item.sequence for item in s.schedule().items] == [a]
    assert s.schedule().items == []
    s.end(a)
    assert parts(s.schedule()) == [(0, 10, False, True)]
    assert len(b.pages[0]) == 7


@pytest.mark.parametrize("state", ["waiting", "in a chunk", "running", "in flight", "preempted"])
def test_a_sequence_can_end_in_every_state(state: str) -> None:
    s = scheduler(num_pages=4, max_model_len=16, max_num_batched_tokens=8)
    a, b = sequence(range(4)), sequence(range(100, 112 if state == "in a chunk" else 104))
    s.add(a)
    s.add(b)
    plans = [] if state == "waiting" else [s.schedule()]
    while state == "preempted" and not plans[-1].preempted:
        plans.append(s.schedule())
    if state == "running":
        deliver(s, plans[0])
    for each in (b, b, a):
        s.end(each)
        assert each.ended
        assert (each.row, each.pages) == (None, [])
    for plan in plans:
        deliver(s, plan)  # too late, and ignored
    assert (s.num_running, s.num_waiting, s.has_work, s.pools.num_used) == (0, 0, False, 0)
    assert s.schedule() == StepPlan()
    s.pools.check_invariants()


@pytest.mark.parametrize("ended_before", [False, True])
def test_forgotten_pages_are_not_found(ended_before: bool) -> None:
    s = scheduler()
    a, other = sequence(range(10)), sequence(range(10), salt="other")
    s.add(a)
    s.add(other)
    s.schedule()
    if ended_before:
        s.end(a)
    s.invalidate(a)
    s.end(a)
    for salt in ("", "", "other"):
        s.add(sequence(range(10), salt=salt))
    assert [start for start, *_ in parts(s.schedule())[1:]] == [0, 8, 8]


def test_a_waiting_sequence_does_not_find_what_was_forgotten_since_it_was_looked_up() -> None:
    s = scheduler(num_pages=8)
    a, b = sequence(range(10)), sequence(range(28))
    s.add(a)
    s.add(b)
    assert len(s.schedule().items) == 1  # b found pages of a, but there is no room for the rest
    s.invalidate(a)
    s.end(a)
    assert parts(s.schedule()) == [(0, 28, True, True)]


def test_a_resumed_sequence_does_not_find_what_was_forgotten_while_it_ran() -> None:
    s = scheduler(num_pages=4, max_model_len=16)
    a, b = sequence(range(4)), sequence(range(100, 104))
    s.add(a)
    s.add(b)
    plans = [s.schedule()]
    s.invalidate(b)
    while not plans[-1].preempted:
        plans.append(s.schedule())
    s.end(a)
    for plan in plans:
        deliver(s, plan)
    assert s.schedule().items[0].start == 0


def test_after_a_reset_all_that_ran_is_computed_again_in_order() -> None:
    s = scheduler()
    a, b, c = sequence(range(6)), sequence(range(100, 106)), sequence(range(200, 206))
    s.add(a)
    s.add(b)
    deliver(s, s.schedule())
    s.schedule()
    s.add(c)
    s.reset()
    assert (s.num_running, s.num_waiting, s.pools.num_used) == (0, 3, 0)
    plan = s.schedule()
    assert [item.sequence for item in plan.items] == [a, b, c]
    assert parts(plan) == [(0, 7, True, True), (0, 7, True, True), (0, 6, True, True)]
    s.pools.check_invariants()


def test_preemptions_of_a_sequence_are_counted() -> None:
    s = scheduler(num_pages=4, max_model_len=16)
    a, b = sequence(range(4)), sequence(range(100, 104))
    run_out_of_pages(s, a, b)
    assert (a.num_preemptions, b.num_preemptions, s.counters.num_preemptions) == (0, 1, 1)
