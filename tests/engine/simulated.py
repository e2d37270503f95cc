"""A machine whose steps take what a formula says, and clients that keep an engine on it busy.

The engine and its scheduler are the real ones; only time is made up, so that a day of a slow
machine takes a second here and is the same each time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from flaxen.engine.core import Engine
from flaxen.protocol import AdapterWeights, ModelInfo, Request, SamplingParams, TokenLogprobs
from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.executor import Executor, StepResult
from flaxen.scheduling.plan import Scheduled, StepPlan
from flaxen.scheduling.sequence import Sequence
from tests.engine.fakes import EOS_ID, VOCAB_SIZE, FakeClock, add, by_hand
from tests.scheduling.groups import full

CONFIG = EngineConfig(
    max_model_len=9000, groups=full(4000), max_num_seqs=64, max_num_batched_tokens=512
)
_TOKEN = 5
_HOST_S = 0.0005  # a step, for the events


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Seconds that a step takes: a fixed part, and for each token of a kind."""

    fixed_s: float
    decoded_s: float
    prompt_s: float
    scored_s: float = 0.0
    noise: float = 0.08  # standard deviation of the logarithm; and one step in 100 takes double


# SmolLM2-135M in bfloat16 on two shared cores, as measured; and Llama-3.2-1B's shape on Zen 5.
ZEN3 = Machine(fixed_s=0.0129, decoded_s=0.00195, prompt_s=0.00168, scored_s=0.004)
ZEN5 = Machine(fixed_s=0.0079, decoded_s=0.00038, prompt_s=0.00036, scored_s=0.001)
ZEN5_1B = Machine(fixed_s=0.053, decoded_s=0.0025, prompt_s=0.0025, scored_s=0.001)


class SimulatedExecutor(Executor):
    """Steps run one after another, beside the host; all tokens are the same."""

    vocab_size = VOCAB_SIZE

    def __init__(self, machine: Machine, clock: FakeClock) -> None:
        self._machine, self._clock, self._idle_s = machine, clock, clock()
        self._random = random.Random(1)

    def row_settings(self, request: Request) -> None: ...
    def load(self, sequence: Sequence, row: int) -> None: ...
    def check_adapter(self, adapter: AdapterWeights) -> None: ...
    def content_key(self, adapter: AdapterWeights) -> str:
        raise NotImplementedError("nobody simulates adapters")

    def load_adapter(self, slot: int, adapter: AdapterWeights) -> None: ...
    def set_params(self, params: Any, *, are_owned: bool) -> None: ...
    def sleep(self, *, keeps_weights: bool) -> None: ...
    def wake_weights(self) -> None: ...
    def reset(self) -> None: ...

    def check_inputs(self, request: Request) -> None: ...

    def hidden_states(self, plan: StepPlan, handle: float, item: Scheduled) -> np.ndarray:
        raise NotImplementedError("nobody simulates pooling")

    def set_adapter_stack(self, stack: Any, scales: Any) -> int:
        return 0

    def read_pages(self, pages: Items[Items[int]]) -> Callable[[], list[np.ndarray]]:
        raise NotImplementedError("the simulated device keeps nothing")

    def write_pages(self, pages: Items[Items[int]], contents: Items[Items[np.ndarray]]) -> None:
        raise NotImplementedError("the simulated device keeps nothing")

    def dispatch(self, plan: StepPlan) -> float:
        machine = self._machine
        num_decoded = sum(item.num_tokens == 1 for item in plan.items)
        num_prompt = sum(item.num_tokens for item in plan.items) - num_decoded
        seconds = machine.fixed_s + num_decoded * machine.decoded_s + num_prompt * machine.prompt_s
        if machine.noise:
            seconds *= math.exp(self._random.gauss(0, machine.noise))
            seconds *= 2 if self._random.random() < 0.01 else 1
        self._idle_s = max(self._idle_s, self._clock()) + seconds
        return self._idle_s

    def sample(self, plan: StepPlan, handle: float, bitmasks: np.ndarray) -> None:
        raise NotImplementedError("the simulated device has no grammars: use the real one")

    def fetch(self, plan: StepPlan, handle: float) -> StepResult:
        self._clock.now = max(self._clock(), handle) + _HOST_S
        tokens = [[_TOKEN] if item.samples else [] for item in plan.items]
        num_items = len(plan.items)
        return StepResult(
            tokens=tokens, failures=[None] * num_items, logprobs=[[] for _ in range(num_items)]
        )

    def prompt_logprobs(
        self, plan: StepPlan, handle: float, item: Scheduled, targets: Items[int], num_top: int
    ) -> list[TokenLogprobs]:
        """Scores keep the device from the step that runs beside them."""
        seconds = len(targets) * self._machine.scored_s
        self._clock.now += seconds
        self._idle_s += seconds
        return [by_hand(token, num_top) for token in targets]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One request of a client."""

    num_in: int
    num_out: int
    prompt_logprobs: int | None = None
    after_s: float = 0.0  # since the start, or since the job before it in its line ended


@dataclass(kw_only=True)
class Seen:
    """What the clients saw, in seconds."""

    wall_s: float = 0.0
    num_out: int = 0
    ttft_s: dict[int, float] = field(default_factory=dict)  # of each job
    gaps_s: dict[int, list[float]] = field(default_factory=dict)  # of each job

    def gaps(self) -> list[float]:
        """All of them."""
        return [gap for gaps in self.gaps_s.values() for gap in gaps]

    @property
    def tok_s(self) -> float:
        """Output tokens a second."""
        return self.num_out / self.wall_s

    def ttft_p99(self) -> float:
        """The 99th percentile of the time to a first token."""
        return percentile(list(self.ttft_s.values()), 99)

    def itl_p99(self) -> float:
        """The 99th percentile of the time between two tokens."""
        return percentile(self.gaps(), 99)


def percentile(values: Items[float], share: float) -> float:
    """The percentile as vLLM's benchmark client computes it."""
    return float(np.percentile(np.asarray(values), share))


def simulate(
    machine: Machine, jobs: Items[Job], concurrency: int, target_itl_ms: float | None
) -> Seen:
    """Runs the jobs, so many at a time: the next one begins as one ends."""
    clock = FakeClock(0.0)
    config = replace(CONFIG, target_itl_ms=target_itl_ms)
    info = ModelInfo(
        name="simulated", vocab_size=VOCAB_SIZE, max_model_len=config.max_model_len,
        max_logprobs=20, eos_token_ids=(EOS_ID,), created=0,
    )  # fmt: skip
    engine = Engine(config, SimulatedExecutor(machine, clock), info, None, clock=clock)
    seen, last_s = Seen(), dict[int, float]()
    coming = [(jobs[i].after_s, i) for i in range(min(concurrency, len(jobs)))]
    num_begun, submitted_s = len(coming), dict[int, float]()
    while coming or engine.has_work:
        coming.sort()
        if not engine.has_work:
            clock.now = max(clock.now, coming[0][0])
        while coming and coming[0][0] <= clock.now:
            at_s, number = coming.pop(0)
            submitted_s[number] = at_s
            add(engine, _request(number, jobs[number]), at_s)
        for event in engine.step():
            number = int(event.request_id)
            seen.num_out += len(event.token_ids)
            if number in last_s:
                seen.gaps_s.setdefault(number, []).append(clock.now - last_s[number])
            else:
                seen.ttft_s[number] = clock.now - submitted_s[number]
            last_s[number] = clock.now
            if event.finish is not None and num_begun < len(jobs):
                coming.append((clock.now + jobs[num_begun].after_s, num_begun))
                num_begun += 1
    seen.wall_s = clock.now
    return seen


def _request(number: int, job: Job) -> Request:
    ids = random.Random(number).choices(range(3, VOCAB_SIZE), k=job.num_in)
    sampling = SamplingParams(
        max_tokens=job.num_out, ignore_eos=True, prompt_logprobs=job.prompt_logprobs
    )
    return Request(request_id=str(number), prompt_token_ids=tuple(ids), sampling=sampling)
