"""The scheduler, case by case. Sampled tokens are made up: only their number matters here."""

import pytest

from flaxen.protocol import STEP_TOKEN_BOUNDS, SamplingParams
from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.pace import Pace
from flaxen.scheduling.plan import StepPlan
from flaxen.scheduling.scheduler import Scheduler
from flaxen.scheduling.sequence import Sequence
from tests.scheduling.groups import full


def scheduler(
    *, num_pages: int = 64, max_num_seqs: int = 8, max_num_batched_tokens: int = 64,
    max_model_len: int = 32, enable_prefix_caching: bool = True, pace: Pace | None = None,
) -> Scheduler:  # fmt: skip
    config = EngineConfig(
        max_model_len=max_model_len,
        groups=full(num_pages),
        page_size=4,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        enable_prefix_caching=enable_prefix_caching,
    )
    return Scheduler(config, pace=pace, clock=lambda: 7.0)


def sequence(
    prompt: range, max_tokens: int | None = 16, salt: str = "", prompt_logprobs: int | None = None,
    priority: int = 0,
) -> Sequence:  # fmt: skip
    return Sequence(
        request_id=f"r{prompt}",
        index=0,
        sampling=SamplingParams(max_tokens=max_tokens),
        prompt_logprobs=prompt_logprobs,
        tokens=list(prompt),
        num_prompt_tokens=len(prompt),
        cache_salt=salt,
        priority=priority,
    )


def parts(plan: StepPlan) -> list[tuple[int, int, bool, bool]]:
    return [(item.start, item.num_tokens, item.samples, item.load_row) for item in plan.items]


def deliver(scheduler: Scheduler, plan: StepPlan, token_id: int = 999) -> None:
    for item in plan.items:
        if item.samples:
            scheduler.append(item.sequence, token_id)


def test_a_prompt_is_computed_whole_then_token_by_token() -> None:
    s, a = scheduler(), sequence(range(6))
    s.add(a)
    assert (s.num_running, s.num_waiting, s.has_work) == (0, 1, True)
    plan = s.schedule()
    assert parts(plan) == [(0, 6, True, True)]
    assert (a.num_in_flight, a.num_tokens, a.num_computed_tokens) == (1, 7, 6)
    assert (s.num_running, s.num_waiting) == (1, 0)
    deliver(s, plan)
    for start in range(6, 10):
        plan = s.schedule()
        assert parts(plan) == [(start, 1, True, False)]
        deliver(s, plan)
    assert len(a.pages[0]) == 3


def test_steps_are_planned_ahead_of_their_tokens() -> None:
    s, a = scheduler(), sequence(range(3))
    s.add(a)
    plans = [s.schedule() for _ in range(4)]
    assert [parts(plan)[0][:2] for plan in plans] == [(0, 3), (3, 1), (4, 1), (5, 1)]
    assert (a.num_in_flight, len(a.tokens), len(a.pages[0])) == (4, 3, 2)


def test_a_long_prompt_is_chunked_by_the_budget_that_older_decodes_leave() -> None:
    s = scheduler(max_num_batched_tokens=8)
    old, long, late = sequence(range(2)), sequence(range(100, 120)), sequence(range(200, 203))
    s.add(old)
    deliver(s, s.schedule())
    s.add(long)
    s.add(late)
    assert parts(s.schedule()) == [(2, 1, True, False), (0, 7, False, True)]
    assert parts(s.schedule()) == [(3, 1, True, False), (7, 7, False, False)]
    assert parts(s.schedule()) == [
        (4, 1, True, False), (14, 6, True, False), (0, 1, False, True),
    ]  # fmt: skip
    assert parts(s.schedule())[2] == (1, 2, True, False)
    assert s.counters.num_prompt_tokens == 2 + 20 + 3


def test_a_prompt_counts_once_even_if_its_last_chunk_looks_like_a_decode() -> None:
    s, a = scheduler(max_num_batched_tokens=2, max_num_seqs=2), sequence(range(3))
    s.add(a)
    plans = [s.schedule() for _ in range(4)]
    assert [parts(plan)[0] for plan in plans[:2]] == [(0, 2, False, True), (2, 1, True, False)]
    assert s.counters.num_prompt_tokens == 3


def test_no_more_sequences_run_than_there_are_rows() -> None:
    s = scheduler(max_num_seqs=2)
    sequences = [sequence(range(10 * i, 10 * i + 3)) for i in range(3)]
    for each in sequences:
        s.add(each)
    assert {item.row for item in s.schedule().items} == {0, 1}
    s.end(sequences[0])
    items = s.schedule().items
    assert [item.sequence for item in items] == sequences[1:]
    assert {item.row for item in items} == {0, 1}


def test_nothing_is_scheduled_beyond_max_tokens() -> None:
    s, a = scheduler(), sequence(range(3), max_tokens=2)
    s.add(a)
    plans = [s.schedule() for _ in range(3)]
    assert [len(plan.items) for plan in plans] == [1, 1, 0]
    assert s.has_work  # its tokens are in flight
    deliver(s, plans[0])
    assert s.schedule().items == []


@pytest.mark.parametrize("max_tokens", [None, 100])
def test_nothing_is_scheduled_beyond_max_model_len(max_tokens: int | None) -> None:
    s, a = scheduler(max_model_len=8), sequence(range(5), max_tokens=max_tokens)
    s.add(a)
    assert [len(s.schedule().items) for _ in range(5)] == [1, 1, 1, 0, 0]
    assert a.num_tokens == 8


def test_a_prompt_that_leaves_no_room_is_our_own_bug() -> None:
    s = scheduler(max_model_len=8)
    with pytest.raises(AssertionError, match="a prompt without room for an output token"):
        s.add(sequence(range(8)))
    s.add(sequence(range(7)))


def test_a_token_that_was_never_sampled_is_our_own_bug() -> None:
    s, a = scheduler(), sequence(range(3))
    s.add(a)
    with pytest.raises(AssertionError, match="no token is in flight"):
        s.append(a, 1)


def test_sequences_of_one_step_share_the_prefix_that_it_computes() -> None:
    s = scheduler()
    a, b, c = (sequence(range(10)) for _ in range(3))
    for each in (a, b, c):
        s.add(each)
    assert parts(s.schedule()) == [(0, 10, True, True), (8, 2, True, True), (8, 2, True, True)]
    assert a.pages[0][:2] == b.pages[0][:2] == c.pages[0][:2]
    assert len({a.pages[0][2], b.pages[0][2], c.pages[0][2]}) == 3
    assert (a.num_cached_tokens, b.num_cached_tokens) == (0, 8)
    counters = s.counters
    assert (counters.num_prefix_queries, counters.num_prefix_hits) == (30, 16)
    assert counters.num_prompt_tokens == 30
    assert (counters.sum_slots_allocated, counters.sum_slots_held) == (5 * 4, 8 + 3 * 2)


def test_a_chunk_that_is_planned_is_found_and_the_rest_is_not() -> None:
    s = scheduler(max_num_batched_tokens=9, max_num_seqs=2)
    s.add(sequence(range(16)))
    s.schedule()
    s.add(sequence(range(16)))
    assert parts(s.schedule()) == [(9, 7, True, False), (12, 2, False, True)]


def test_the_last_token_is_computed_even_if_all_pages_are_cached() -> None:
    s, a, b = scheduler(), sequence(range(8)), sequence(range(8))
    s.add(a)
    s.schedule()
    s.end(a)
    s.add(b)
    assert parts(s.schedule()) == [(4, 4, True, True)]
    s.pools.check_invariants()


def test_outputs_are_found_too() -> None:
    s, a = scheduler(), sequence(range(3))
    s.add(a)
    for token_id in range(3, 9):
        deliver(s, s.schedule(), token_id)
    s.end(a)
    s.add(sequence(range(20)))
    assert parts(s.schedule()) == [(8, 12, True, True)]


@pytest.mark.parametrize("is_known", [False, True])
def test_outputs_planned_ahead_are_found_when_their_tokens_arrive(is_known: bool) -> None:
    s, a = scheduler(), sequence(range(3))
    s.add(a)
    plans = [s.schedule() for _ in range(3)]  # positions 0 to 4: the first page is full
    if is_known:
        deliver(s, plans[0], 3)
    s.add(sequence(range(5)))
    assert parts(s.schedule())[1][0] == (4 if is_known else 0)


def test_salts_share_nothing() -> None:
    s = scheduler()
    for salt in ("", "a", "b", "a"):
        s.add(sequence(range(10), salt=salt))
    assert [start for start, *_ in parts(s.schedule())] == [0, 0, 0, 8]


def test_without_prefix_caching_nothing_is_shared_or_counted() -> None:
    s = scheduler(enable_prefix_caching=False)
    for _ in range(2):
        s.add(sequence(range(10)))
    assert [start for start, *_ in parts(s.schedule())] == [0, 0]
    assert s.counters.num_prefix_queries == 0


def test_prompt_logprobs_need_every_position_but_are_found_by_others() -> None:
    s, a = scheduler(), sequence(range(10), prompt_logprobs=1)
    s.add(sequence(range(10)))
    s.add(a)
    assert [start for start, *_ in parts(s.schedule())] == [0, 0]
    assert (a.num_cached_tokens, s.counters.num_prefix_queries) == (0, 10)


def test_the_first_step_is_stamped() -> None:
    s, a = scheduler(), sequence(range(3))
    s.add(a)
    assert a.first_scheduled_s is None
    s.schedule()
    assert a.first_scheduled_s == 7.0


def test_lower_priorities_are_admitted_first_and_equal_ones_in_order_of_arrival() -> None:
    s = scheduler(max_num_seqs=1)
    waiting = {
        name: sequence(range(start, start + 4), max_tokens=1, priority=priority)
        for start, (name, priority) in zip(
            range(0, 50, 10),
            [("a", 0), ("b", 5), ("c", -1), ("d", 0), ("e", -1)],
            strict=True,
        )
    }
    for each in waiting.values():
        s.add(each)
    admitted = []
    while s.has_work:
        plan = s.schedule()
        deliver(s, plan)
        for item in plan.items:
            admitted += [name for name, each in waiting.items() if each is item.sequence]
            s.end(item.sequence)
    assert "".join(admitted) == "ceadb"


def test_a_preempted_sequence_waits_behind_lower_priorities_only() -> None:
    s = scheduler(num_pages=4, max_model_len=16)
    first, second = sequence(range(4)), sequence(range(10, 14))
    s.add(first)
    s.add(second)
    while not (plan := s.schedule()).preempted:
        deliver(s, plan)
    assert plan.preempted == [second]
    urgent, later = sequence(range(20, 24), priority=-1), sequence(range(30, 34))
    s.add(later)
    s.add(urgent)
    deliver(s, plan)
    s.end(first)
    assert [item.sequence for item in s.schedule().items] == [urgent]  # the others have no room
    s.end(urgent)
    assert next(item.sequence for item in s.schedule().items) is second


def test_steps_are_counted_by_their_prompt_tokens_and_generated_ones() -> None:
    s = scheduler(max_num_batched_tokens=16)
    a, b = sequence(range(20), max_tokens=3), sequence(range(50, 51), max_tokens=2)
    s.add(a)
    s.add(b)
    sizes = []
    while s.has_work:
        before = s.counters.sum_step_tokens
        plan = s.schedule()
        sizes.append(s.counters.sum_step_tokens - before)
        deliver(s, plan)
        for each in (a, b):
            if each.num_tokens == each.max_num_tokens and not each.ended:
                s.end(each)
    # The 16 tokens that fit; the other 4 and a first token, and b's prompt and first token; two
    # more of a and one of b.
    assert sizes == [16, 4 + 1 + 1 + 1, 2, 1]
    assert sum(sizes) == 20 + 3 + 1 + 2
    counts = dict(zip((*STEP_TOKEN_BOUNDS, None), s.counters.step_sizes, strict=True))
    assert {bound: count for bound, count in counts.items() if count} == {1: 1, 8: 2, 16: 1}
