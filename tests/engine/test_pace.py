"""The pace of prompts: how it follows the machine, and what it does to steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flaxen.engine.core import Engine
from flaxen.engine.pace import Pace
from flaxen.engine.plan import StepPlan
from flaxen.engine.scheduler import Scheduler
from flaxen.protocol import FinishReason, ModelInfo, Request, SamplingParams
from tests.engine.fakes import EOS_ID, SMALL, VOCAB_SIZE, FakeExecutor
from tests.engine.test_scheduler import deliver, parts, scheduler, sequence


@pytest.mark.parametrize("seconds_a_token", [1e-5, 0.001, 0.0017, 0.02, 10.0])
def test_it_settles_where_steps_take_what_is_wanted(seconds_a_token: float) -> None:
    pace = Pace(0.05, most=256)
    for _ in range(40):
        pace.observe(0.003 + seconds_a_token * pace.num_tokens)
    wanted = 0.047 / seconds_a_token
    assert pace.num_tokens == pytest.approx(min(max(wanted, 16), 256), abs=1)


def test_a_single_late_step_does_not_stop_prompts() -> None:
    pace = Pace(0.05, most=256)
    pace.observe(5.0)
    assert pace.num_tokens == 32
    assert Pace(0.05, most=8).num_tokens == 8  # what a step may have at all


@pytest.mark.parametrize("target", [-1.0, float("nan"), float("inf")])
def test_a_target_that_is_no_time_is_refused(target: float) -> None:
    with pytest.raises(ValueError, match="target_itl_ms must be a number of milliseconds"):
        replace(SMALL, target_itl_ms=target)


def started(pace: Pace | None) -> Scheduler:
    """One sequence that decodes, and two long prompts behind it."""
    s = scheduler(pace=pace)
    s.add(sequence(range(4)))
    deliver(s, s.schedule())
    s.add(sequence(range(20, 40)))
    s.add(sequence(range(40, 55)))
    return s


def shares(plan: StepPlan) -> list[int]:
    return [item.num_tokens for item in plan.items]


def test_prompts_are_cut_beside_a_sequence_that_decodes() -> None:
    s = started(Pace(1.0, most=12))
    plan = s.schedule()
    assert (shares(plan), plan.is_paced) == ([1, 12], True)  # nobody is admitted behind it
    deliver(s, plan)
    plan = s.schedule()
    assert (shares(plan), plan.is_paced) == ([1, 8, 4], True)  # its end, and the next one's start
    deliver(s, plan)
    plan = s.schedule()
    assert (shares(plan), plan.is_paced) == ([1, 1, 11], False)  # all that was left


def test_prompts_are_not_cut_where_nobody_waits() -> None:
    s = scheduler(pace=Pace(1.0, most=2))
    s.add(sequence(range(20)))
    s.add(sequence(range(20, 39)))
    plan = s.schedule()
    assert parts(plan) == [(0, 20, True, True), (0, 19, True, True)]
    assert not plan.is_paced


def test_without_a_pace_the_budget_is_all_there_is() -> None:
    plan = started(None).schedule()
    assert (shares(plan), plan.is_paced) == ([1, 20, 15], False)


def test_the_engine_follows_its_clock() -> None:
    """Steps take a second for each token: prompts shrink to the least beside a decoding request."""
    now = 0.0
    config = replace(SMALL, max_num_batched_tokens=40, max_model_len=96, target_itl_ms=20_000)

    class Slow(FakeExecutor):
        def fetch(self, plan: StepPlan, handle: object) -> object:
            nonlocal now
            now += sum(item.num_tokens for item in plan.items)
            return super().fetch(plan, handle)  # type: ignore[arg-type]

    executor = Slow(config)
    info = ModelInfo(
        name="m", vocab_size=VOCAB_SIZE, max_model_len=config.max_model_len, max_logprobs=0,
        eos_token_ids=(EOS_ID,), created=0,
    )  # fmt: skip
    engine = Engine(config, executor, info, None, clock=lambda: now)
    sampling = SamplingParams(max_tokens=60, ignore_eos=True)
    engine.add(Request(request_id="a", prompt_token_ids=(5, 6), sampling=sampling))
    engine.step()
    for number in range(4):
        long = tuple(range(3, 75))
        one = SamplingParams(max_tokens=1)
        engine.add(Request(request_id=f"b{number}", prompt_token_ids=long, sampling=one))
    gaps, last = [], None
    ends = []
    while engine.has_work:
        for event in engine.step():
            if event.request_id == "a":
                gaps.append(now - last if last is not None else 0.0)
                last = now
            if event.finish is not None:
                ends.append((event.request_id, event.finish.reason))
    assert ends == [*((f"b{n}", FinishReason.LENGTH) for n in range(4)), ("a", FinishReason.LENGTH)]
    assert max(gaps) == 40  # the first: what a step takes was not known
    assert max(gaps[4:]) <= 22
