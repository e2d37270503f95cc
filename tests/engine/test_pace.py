"""The pace of prompts: what it allows, and what it does to steps and to those who wait."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace

import pytest

from flaxen.scheduling import pace
from flaxen.scheduling.pace import Pace
from flaxen.scheduling.plan import StepPlan
from flaxen.scheduling.scheduler import Scheduler
from flaxen.scheduling.step_time import StepTime
from tests.engine.fakes import SMALL
from tests.engine.simulated import (
    ZEN3,
    ZEN5,
    ZEN5_1B,
    Job,
    Machine,
    Seen,
    percentile,
    simulate,
)
from tests.scheduling.test_scheduler import deliver, parts, scheduler, sequence

FIXED_S, TOKEN_S, SCORED_S = 0.01, 0.002, 0.005


def told(pace: Pace | StepTime) -> None:
    """Steps of three kinds: they decode, compute prompts, and score them."""
    for _ in range(50):
        for num_tokens, num_scored in ((8, 0), (120, 0), (64, 48)):
            seconds = FIXED_S + num_tokens * TOKEN_S + num_scored * SCORED_S
            pace.observe(num_tokens, num_scored, seconds)


def test_what_a_step_takes_is_learned_from_steps() -> None:
    time = StepTime()
    told(time)
    assert time.fixed_s == pytest.approx(FIXED_S, rel=0.01)
    assert time.token_s == pytest.approx(TOKEN_S, rel=0.01)
    assert time.scored_s == pytest.approx(SCORED_S, rel=0.01)


def test_a_single_late_step_changes_little() -> None:
    time = StepTime()
    told(time)
    time.observe(120, 0, 60.0)  # something else took the machine
    assert time.token_s < 2 * TOKEN_S
    for _ in range(4):
        time.observe(8, 0, FIXED_S + 8 * TOKEN_S)
        time.observe(120, 0, FIXED_S + 120 * TOKEN_S)
    assert time.token_s == pytest.approx(TOKEN_S, rel=0.1)
    assert time.fixed_s == pytest.approx(FIXED_S, rel=0.3)


def test_it_follows_a_machine_that_slows_down() -> None:
    time = StepTime()
    told(time)
    for _ in range(10):
        for num_tokens in (8, 120):
            time.observe(num_tokens, 0, 5 * (FIXED_S + num_tokens * TOKEN_S))
    assert time.token_s == pytest.approx(5 * TOKEN_S, rel=0.1)


def test_a_day_of_decoding_does_not_change_what_prompts_are_thought_to_cost() -> None:
    noise = random.Random(0)
    time = StepTime()
    told(time)
    for _ in range(20_000):
        time.observe(12, 0, (FIXED_S + 12 * TOKEN_S) * math.exp(noise.gauss(0, 0.1)))
    assert time.token_s == pytest.approx(TOKEN_S, rel=0.25)
    assert time.scored_s == pytest.approx(SCORED_S, rel=0.25)


def test_steps_that_were_compiled_are_forgotten() -> None:
    time = StepTime()
    for num_tokens in (128, 1, 300, 16, 64, 512, 20):
        time.observe(num_tokens, 0, 5.0)
    for _ in range(15):
        for num_tokens in (12, 60):
            time.observe(num_tokens, 0, FIXED_S + num_tokens * TOKEN_S)
    assert time.fixed_s + 12 * time.token_s == pytest.approx(FIXED_S + 12 * TOKEN_S, rel=0.1)


@pytest.mark.parametrize(
    ("target_s", "num_decoding", "allowed"),
    [
        (None, 15, 40),  # 120 ms: three times what decoding alone takes
        (None, 4, 16),  # 54 ms, but a prompt goes on
        (None, 5, 20),  # 60 ms
        (0.1, 15, 30),  # as asked
        (0.001, 15, 20),  # half of the step is the prompts', whatever was asked
        (5.0, 15, 512),  # all that there is
    ],
)
def test_a_step_takes_what_is_wanted(
    target_s: float | None, num_decoding: int, allowed: int
) -> None:
    pace = Pace(target_s, most=512)
    told(pace)
    assert pace.num_allowed(num_decoding, 1, num_completed=0) == pytest.approx(allowed, abs=1)


def test_a_step_of_40_ms_disturbs_nobody() -> None:
    pace = Pace(None, most=512)
    for _ in range(20):
        for num_tokens in (8, 120):
            pace.observe(num_tokens, 0, 0.004 + num_tokens * 0.0002)
    assert pace.num_allowed(5, 1, num_completed=0) == pytest.approx(175, abs=3)


def test_a_step_that_brings_many_first_tokens_is_not_cut() -> None:
    pace = Pace(0.1, most=512)
    told(pace)
    assert pace.num_allowed(8, 4, num_completed=4) == 512
    assert pace.num_allowed(9, 4, num_completed=4) < 50
    assert Pace(None, most=8).num_allowed(9, 1, 0) == 8  # what a step may have at all


def test_a_step_is_not_cut_for_few_while_many_prompts_wait() -> None:
    pace = Pace(None, most=512)
    told(pace)
    assert pace.num_allowed(2, 4, num_completed=0) == 512
    assert pace.num_allowed(2, 3, num_completed=0) < 50
    assert Pace(0.05, most=512).num_allowed(2, 4, num_completed=0) < 512  # a target was asked for


def test_a_look_at_decoding_alone_after_fifteen_steps_that_were_cut() -> None:
    pace = Pace(0.1, most=512)
    allowed = [pace.num_allowed(9, 1, 0) for _ in range(32)]
    assert [i for i, num in enumerate(allowed) if num == 0] == [15, 31]


def test_a_wrong_guess_does_not_last() -> None:
    """Steps of one size alone would not tell the fixed part from the tokens' part."""
    pace = Pace(None, most=512)
    for _ in range(50):
        pace.observe(12, 0, 0.034)
    sizes = []
    for _ in range(200):
        num_tokens = 12 + pace.num_allowed(12, 1, 0)
        pace.observe(num_tokens, 0, FIXED_S + num_tokens * TOKEN_S)
        sizes.append(num_tokens)
    settled = [size for size in sizes[-32:] if size > 12]
    assert FIXED_S + max(settled) * TOKEN_S == pytest.approx(3 * 0.034, rel=0.05)


@pytest.mark.parametrize("target", [-1.0, float("nan"), float("inf")])
def test_a_target_that_is_no_time_is_refused(target: float) -> None:
    with pytest.raises(ValueError, match="target_itl_ms must be a number of milliseconds"):
        replace(SMALL, target_itl_ms=target)


def started(pace: Pace | None) -> Scheduler:
    """Three sequences that decode, and two long prompts behind them."""
    s = scheduler(pace=pace, max_num_seqs=5)
    for i in range(3):
        s.add(sequence(range(i, i + 4)))
    deliver(s, s.schedule())
    s.add(sequence(range(20, 40)))
    s.add(sequence(range(40, 55)))
    return s


def shares(plan: StepPlan) -> list[int]:
    return [item.num_tokens for item in plan.items]


def test_prompts_are_cut_beside_sequences_that_decode() -> None:
    s = started(Pace(1.0, most=12))
    plan = s.schedule()
    assert shares(plan) == [1, 1, 1, 12]  # nobody is admitted behind it
    deliver(s, plan)
    plan = s.schedule()
    assert shares(plan) == [1, 1, 1, 8, 4]  # its end, and the next one's start
    deliver(s, plan)
    assert shares(s.schedule()) == [1, 1, 1, 1, 11]  # all that was left


def test_prompts_are_not_cut_where_nobody_waits() -> None:
    s = scheduler(pace=Pace(1.0, most=2))
    s.add(sequence(range(20)))
    s.add(sequence(range(20, 39)))
    plan = s.schedule()
    assert parts(plan) == [(0, 20, True, True), (0, 19, True, True)]


def test_prompts_are_not_cut_where_they_are_many() -> None:
    s = started(Pace(0.001, most=64))
    assert shares(s.schedule()) == [1, 1, 1, 20, 15]  # two first tokens, and three who wait


def test_what_the_prefix_cache_holds_is_no_work() -> None:
    s = scheduler(pace=Pace(0.001, most=64), max_num_batched_tokens=30)
    for i in range(3):
        s.add(sequence(range(i, i + 4)))
    deliver(s, s.schedule())
    s.add(sequence(range(20, 36), max_tokens=1))
    deliver(s, s.schedule())
    for i in range(2):  # 16 tokens of each are found: both end in this step
        own = range(100 * i + 100, 100 * i + 112)
        s.add(replace(sequence(range(28)), tokens=[*range(20, 36), *own]))
    assert shares(s.schedule()) == [1, 1, 1, 12, 12]


def test_without_a_pace_the_budget_is_all_there_is() -> None:
    assert shares(started(None).schedule()) == [1, 1, 1, 20, 15]


def test_a_scored_prompt_gets_fewer_tokens() -> None:
    found = []
    for prompt_logprobs in (None, 1):
        pace = Pace(0.3, most=4096)
        told(pace)
        s = scheduler(pace=pace, num_pages=512, max_model_len=512, max_num_batched_tokens=256)
        for i in range(3):
            s.add(sequence(range(i, i + 4)))
        deliver(s, s.schedule())
        s.add(sequence(range(300), prompt_logprobs=prompt_logprobs))
        plan = s.schedule()
        found.append(plan.items[-1].num_tokens)
        assert plan.items[-1].num_scored == (0 if prompt_logprobs is None else found[-1])
    assert found[0] == pytest.approx(found[1] * (TOKEN_S + SCORED_S) / TOKEN_S, rel=0.1)


# Workload S of benchmarks/peers: 32 requests of 128 in, 128 out, 16 at a time.


def burst(stagger_s: float) -> list[Job]:
    first = [Job(num_in=128, num_out=128, after_s=i * stagger_s) for i in range(16)]
    return [*first, *[Job(num_in=128, num_out=128, after_s=0.01)] * 16]


@pytest.mark.parametrize("stagger_s", [0.001, 0.004, 0.01])
@pytest.mark.parametrize(
    ("machine", "ttft_s", "itl_s"),
    [(ZEN3, 4.0, 0.195), (ZEN5, 0.85, 0.052), (ZEN5_1B, 6.2, 0.4)],
    ids=["zen3", "zen5", "zen5-1b"],
)
def test_a_burst_is_not_starved(
    machine: Machine, ttft_s: float, itl_s: float, stagger_s: float
) -> None:
    """The bounds are vLLM's server's on that machine, where it was measured."""
    ours, unpaced = (simulate(machine, burst(stagger_s), 16, target) for target in (None, 0))
    assert ours.ttft_p99() <= min(ttft_s, 1.2 * unpaced.ttft_p99())
    assert ours.itl_p99() <= itl_s < unpaced.itl_p99()
    assert ours.tok_s >= 0.9 * unpaced.tok_s


@pytest.mark.parametrize("machine", [ZEN3, ZEN5], ids=["zen3", "zen5"])
def test_a_queue_of_long_prompts_does_not_wait_for_the_few_who_decode(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight agents, each of whose turns has 2,000 new tokens and an answer of 16."""
    first = [Job(num_in=2000, num_out=16, after_s=0.1 * i) for i in range(8)]
    jobs = [*first, *[Job(num_in=2000, num_out=16, after_s=4.0)] * 24]
    ours, unpaced = (simulate(machine, jobs, 8, target) for target in (None, 0))
    monkeypatch.setattr(pace, "_QUEUE", math.inf)
    cut = simulate(machine, jobs, 8, None)
    assert statistics.median(ours.ttft_s.values()) < 0.8 * statistics.median(cut.ttft_s.values())
    assert ours.wall_s < cut.wall_s
    assert percentile(ours.gaps(), 50) < 0.3 * percentile(unpaced.gaps(), 50)


@pytest.mark.parametrize("target", [1.0, 50.0])
def test_a_target_below_what_decoding_takes_does_not_starve_a_burst(target: float) -> None:
    ours, unpaced = (simulate(ZEN3, burst(0.004), 16, each) for each in (target, 0))
    assert ours.ttft_p99() <= 1.25 * unpaced.ttft_p99()
    assert ours.tok_s >= 0.9 * unpaced.tok_s


def beside_a_long_prompt(machine: Machine, target: float | None, **long: int) -> Seen:
    """Eight that decode, and the ninth job: 4,000 tokens to read."""
    jobs = [*[Job(num_in=16, num_out=500)] * 8, Job(num_in=4000, num_out=2, after_s=0.5, **long)]
    return simulate(machine, jobs, 9, target)


def neighbours(seen: Seen, machine: Machine) -> list[float]:
    """The gaps of the eight, in steps that computed more than their tokens."""
    plain_s = 1.4 * decode_s(machine)
    return [gap for job in range(8) for gap in seen.gaps_s[job] if gap > plain_s]


def decode_s(machine: Machine) -> float:
    return machine.fixed_s + 8 * machine.decoded_s


@pytest.mark.parametrize("machine", [ZEN3, ZEN5, ZEN5_1B], ids=["zen3", "zen5", "zen5-1b"])
def test_a_long_prompt_goes_on_beside_those_who_decode(machine: Machine) -> None:
    ours, unpaced = (beside_a_long_prompt(machine, target) for target in (None, 0))
    wanted_s = max(0.04, 3 * decode_s(machine))
    assert percentile(neighbours(ours, machine), 50) <= 1.25 * wanted_s
    assert percentile(neighbours(ours, machine), 95) <= 1.75 * wanted_s
    assert percentile(neighbours(unpaced, machine), 50) > 3 * wanted_s
    assert ours.ttft_s[8] <= 1.6 * unpaced.ttft_s[8]


@pytest.mark.parametrize("machine", [ZEN3, ZEN5, ZEN5_1B], ids=["zen3", "zen5", "zen5-1b"])
def test_a_scored_prompt_disturbs_its_neighbours_no_more_than_a_plain_one(machine: Machine) -> None:
    plain, scored = (
        neighbours(beside_a_long_prompt(machine, None, **long), machine)
        for long in ({}, {"prompt_logprobs": 1})
    )
    assert percentile(scored, 50) <= 1.1 * percentile(plain, 50)
    assert percentile(scored, 90) <= 1.2 * percentile(plain, 90)
