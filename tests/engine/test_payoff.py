"""Drafts are made where they bring more tokens in a second, also on a machine that is not quiet.

The engine is the real one; its clock, its device and its drafter are played. A step takes as long
as its tokens say, the machine's speed doubles and halves, and each time has noise.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Mapping
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from flaxen.engine.speculative.drafter import Drafter
from flaxen.engine.speculative.payoff import Acceptance, Offer, Payoff
from flaxen.engine.speculative.round_time import RoundTime
from flaxen.protocol import Request, SamplingParams
from flaxen.scheduling.executor import StepResult
from flaxen.scheduling.plan import StepPlan
from flaxen.scheduling.sequence import Sequence
from tests.engine.drafters import Always
from tests.engine.fakes import SMALL, FakeClock, FakeExecutor, fake_engine
from tests.scheduling.groups import full

LENGTH, NUM_ANSWERS = 250, 8  # tokens of an answer; answers one after the other
CONFIG = replace(
    SMALL, max_model_len=LENGTH + 40, groups=full(num_pages=4000), max_num_batched_tokens=128,
    max_num_seqs=8, num_spec_tokens=8,
)  # fmt: skip


@dataclass
class Machine:
    """Time passes on it: quickly and slowly in turns, and never twice the same.

    Args:
      noise: of all times; 0: the machine is quiet.
      clock: what the engine sees.
      quiet_s: the time that it would be without changes of the speed and without noise.
    """

    noise: float
    clock: FakeClock = field(default_factory=FakeClock)
    quiet_s: float = 0.0
    random: random.Random = field(default_factory=lambda: random.Random(1))
    slowness: float = 1.0
    changes_s: float = 0.0
    step_s: float = 0.0  # when the last step ends, on the clock
    quiet_step_s: float = 0.0

    def passes(self, quiet_s: float) -> float:
        """Waits; returns how long it was."""
        seconds = self._slowed(quiet_s)
        self.clock.now += seconds
        self.quiet_s += quiet_s
        return seconds

    def start_step(self, quiet_s: float) -> None:
        """Starts a step after the one before it."""
        self.step_s = max(self.clock.now, self.step_s) + self._slowed(quiet_s)
        self.quiet_step_s = max(self.quiet_s, self.quiet_step_s) + quiet_s

    def _slowed(self, quiet_s: float) -> float:
        if self.noise and self.clock.now > self.changes_s:
            self.slowness = 3.0 - self.slowness
            self.changes_s = self.clock.now + self.random.expovariate(1 / 2.0)
        return quiet_s * self.slowness * math.exp(self.random.gauss(0, self.noise))


class TimedExecutor(FakeExecutor):
    """A step takes 16 ms, or 18 ms and more if it has more than one token; a new one is only
    started when the one before is done, and planning it takes the host 1 ms.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(CONFIG, poison=None)
        self._machine = machine

    def dispatch(self, plan: StepPlan) -> Any:
        machine = self._machine
        machine.passes(0.001)
        num_tokens = sum(item.num_tokens for item in plan.items)
        machine.start_step(0.016 if num_tokens == 1 else 0.018 + 0.0004 * num_tokens)
        return super().dispatch(plan), (machine.step_s, machine.quiet_step_s)

    def fetch(self, plan: StepPlan, handle: Any) -> StepResult:
        result, (end_s, quiet_end_s) = handle
        self._machine.clock.now = max(self._machine.clock.now, end_s)
        self._machine.quiet_s = max(self._machine.quiet_s, quiet_end_s)
        return super().fetch(plan, result)


class Guessing(Drafter):
    """Each token that it says is right with the same probability, and takes the same time."""

    def __init__(self, machine: Machine, right: float, token_s: float) -> None:
        self._machine, self._right, self._quiet_s = machine, right, token_s
        self._random = random.Random(2)
        self.only_reads = token_s == 0

    def propose(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, Ids[int]]:
        longest, rng = max(wanted.values(), default=0), self._random
        if longest and not self.only_reads:
            self.token_s = self._machine.passes(longest * self._quiet_s) / longest
        return {
            sequence: [
                (sequence.tokens[-1] + 1 + i + (rng.random() > self._right)) % 300
                for i in range(most)
            ]
            for sequence, most in wanted.items()
        }

    def end(self, sequence: Sequence) -> None: ...


def quiet_seconds(
    right: float | None,
    *,
    token_s: float = 0.0,
    noise: float = 0.0,
    num_seqs: int = 1,
    length: int | None = None,
) -> float:
    """The time for all answers, as it would be on a quiet machine.

    Args:
      right: how often a draft token is right; None: no drafts.
      token_s: the seconds of a draft token.
      noise: as in Machine.
      num_seqs: sequences at once.
      length: of all drafts; None: the engine chooses.
    """
    machine = Machine(noise)
    config = CONFIG if length is None else replace(CONFIG, num_spec_tokens=length)
    drafter = None if right is None else Guessing(machine, right, token_s)
    payoff = None if length is None else Always()
    engine = fake_engine(
        config, TimedExecutor(machine), drafter=drafter, payoff=payoff, clock=machine.clock
    )
    sampling = SamplingParams(max_tokens=LENGTH, ignore_eos=True)
    for i in range(0, NUM_ANSWERS, num_seqs):
        for j in range(num_seqs):
            request = Request(request_id=f"{i + j}", prompt_token_ids=(5, i), sampling=sampling)
            engine.add(engine.check(request))
        while engine.has_work:
            engine.step()
    return machine.quiet_s


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize(
    ("right", "token_s", "num_seqs"),
    [
        (0.0, 0.0, 1),
        (0.5, 0.0, 1),
        (0.95, 0.0, 1),
        (0.0, 0.0, 8),
        (0.7, 0.0, 8),
        (0.0, 0.0075, 1),
        (0.6, 0.0075, 1),
        (0.85, 0.0075, 1),
        (0.95, 0.0075, 1),
        (0.85, 0.015, 1),
        (0.85, 0.0075, 8),
    ],
)
def test_the_engine_is_nearly_as_fast_as_with_the_best_length(
    right: float, token_s: float, num_seqs: int, noise: float
) -> None:
    run = functools.partial(quiet_seconds, token_s=token_s, num_seqs=num_seqs)
    plain = run(None)
    best = min(plain, *(run(right, length=length) for length in (2, 4, 6, 8)))
    chosen = run(right, noise=noise)
    assert chosen < plain / 0.97
    assert chosen < best / 0.85


def measured() -> Payoff:
    payoff = Payoff()
    for num_tokens in (1, 2, 4, 8, 16, 64, 100) * 4:
        for waited in (False, True):
            payoff.observe(num_tokens, 0.016 + 0.0004 * num_tokens, waited=waited)
    return payoff


def test_drafts_are_as_long_as_they_bring_more_tokens_in_a_second() -> None:
    payoff = measured()
    right, half, wrong = (Offer(rate, 15) for rate in (1.0, 0.5, 0.04))
    assert payoff.choose([right], 1, 64) == [15]
    assert payoff.choose([right], 1, 4) == [4]
    assert 2 <= payoff.choose([half], 1, 64)[0] <= 7
    assert payoff.choose([wrong], 1, 64) == [0]
    assert payoff.choose([right, wrong, Offer(1.0, 0)], 3, 64) == [15, 0, 0]


def test_a_draft_model_drafts_for_all_at_once() -> None:
    payoff = measured()
    for _ in range(4):
        payoff.observe_drafting(0.004)
    numbers = payoff.choose([Offer(0.95, 8), Offer(0.8, 8), Offer(0.9, 3)], 3, 64)
    assert numbers[2] == 3
    assert numbers[0] == numbers[1] >= 3


def test_a_rate_that_was_low_is_tried_again_after_longer_and_longer_pauses() -> None:
    payoff, tries = measured(), []
    for _ in range(4):
        payoff.observe_drafting(0.004)
    for i in range(300):
        if any(payoff.choose([Offer(0.1, 8, hope=0.8)], 1, 64)):
            tries.append(i)
    assert tries == [32, 33, 98, 99, 228, 229]
    assert not any(any(payoff.choose([Offer(0.04, 8)], 1, 64)) for _ in range(300))


def test_what_drafts_gain_is_measured_again_after_longer_and_longer_pauses() -> None:
    payoff, tries = measured(), []
    for i in range(300):
        if not any(payoff.choose([Offer(0.3, 8)], 1, 64)):
            tries.append(i)
    assert tries == [32, 33, 98, 99, 228, 229]


def test_kinds_of_rounds_are_compared_at_one_speed() -> None:
    times = RoundTime()
    for slowness in [1.0] * 8 + [2.0] * 8:
        times.observe("short", 0.010 * slowness, None)
    for slowness in [2.0] * 8 + [1.0] * 8:
        times.observe("long", 0.020 * slowness, None)
    short_s, long_s = times.seconds("short", None), times.seconds("long", None)
    assert short_s is not None
    assert long_s is not None
    assert long_s / short_s == pytest.approx(2.0, rel=0.2)
    assert times.seconds("other", 0.5) == 0.5


def test_a_round_that_had_other_reasons_changes_little() -> None:
    times = RoundTime()
    for _ in range(30):
        times.observe("plain", 0.010, None)
    times.observe("plain", 5.0, None)
    for _ in range(5):
        times.observe("plain", 0.010, None)
    assert times.seconds("plain", None) == pytest.approx(0.010, rel=0.2)


def test_a_clock_that_stands_still_breaks_nothing() -> None:
    times = RoundTime()
    for _ in range(8):
        times.observe("plain", 0.0, None)
    assert times.seconds("plain", None) == pytest.approx(1e-6)


def test_an_acceptance_follows_what_happens() -> None:
    found = Acceptance(0.5, 0.1)
    for _ in range(40):
        found.observe(0, then_wrong=True)
    assert found.rate < 0.01
    found.observe(16, then_wrong=False)
    assert found.rate > 0.8
