"""Runs workloads on an engine and computes figures from the times.

Knows: the definition of each figure. Deliberately does not know tables, files or engines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flaxen.benchmark.ideal import ModelCost, ideal
from flaxen.benchmark.limits import Limits
from flaxen.benchmark.workloads import RequestBatch, Workload
from flaxen.build import OnProgress
from flaxen.protocol import EngineStats, FinishReason, Request, SamplingParams, TokenEvent

Clock = Callable[[], float]


class SyncEngine(Protocol):
    """An engine that runs a step when it is called."""

    @property
    def has_work(self) -> bool: ...
    @property
    def schedule_s(self) -> float: ...
    def check(self, request: Request) -> Any: ...
    def add(self, checked: Any) -> None: ...
    def step(self) -> Sequence[TokenEvent]: ...
    def stats(self) -> EngineStats: ...


@dataclass(frozen=True, kw_only=True)
class Rep:
    """One repetition: its requests, and the seconds to compare with the limit."""

    batch: RequestBatch
    is_decode_only: bool  # the seconds exclude the time to the first token
    compared_s: float

    def limit_share(self, cost: ModelCost, limits: Limits) -> float:
        """The least time in which the machine could run it, divided by the measured time."""
        least = ideal(cost, limits, self.batch.prompts, self.batch.num_outputs)
        least_s = least.decode_s if self.is_decode_only else least.prefill_s + least.decode_s
        return least_s / self.compared_s


@dataclass(frozen=True, kw_only=True)
class Result:
    """One workload's figures, with a value for each repetition."""

    name: str
    description: str
    reps: list[Rep]
    figures: dict[str, list[float]]  # the first one is used for comparisons
    kv_waste: float  # share of the slots in used pages that held no token
    scheduler_share: float  # of the time, spent on planning steps


def run_workload(
    engine: SyncEngine,
    workload: Workload,
    num_reps: int,
    on_progress: OnProgress,
    clock: Clock = time.perf_counter,
) -> Result:
    """Runs a workload's first repetitions with greedy requests, and times each one.

    Args:
      engine: an idle engine.
      workload: what to run.
      num_reps: at most the workload's own.
      on_progress: called after each repetition with the workload's name, the number done and the
          total.
      clock: returns seconds.

    Raises:
      ValueError: the engine can't serve a request of this length.
      RuntimeError: a request ended with another number of tokens than requested.
    """
    figures: dict[str, list[float]] = {}
    reps: list[Rep] = []
    before, schedule_before_s = engine.stats(), engine.schedule_s
    start_s = clock()
    for num_done, batch in enumerate(workload.batches[:num_reps], 1):
        rep, values = _run_rep(engine, batch, clock)
        reps.append(rep)
        for name, value in values.items():
            figures.setdefault(name, []).append(value)
        on_progress(workload.name, num_done, num_reps)
    elapsed_s = clock() - start_s
    after = engine.stats()
    allocated = after.sum_slots_allocated - before.sum_slots_allocated
    held = after.sum_slots_held - before.sum_slots_held
    return Result(
        name=workload.name,
        description=workload.description,
        reps=reps,
        figures=figures,
        kv_waste=1 - held / allocated,
        scheduler_share=(engine.schedule_s - schedule_before_s) / elapsed_s,
    )


def _run_rep(engine: SyncEngine, batch: RequestBatch, clock: Clock) -> tuple[Rep, dict[str, float]]:
    num_output = sum(batch.num_outputs)
    if batch.ttft_prompt is not None:
        # Other engines' benchmarks do the same: a prompt of the same length with one output token
        # gives the time to the first token; the rest of a whole run is the time of the other
        # tokens.
        first_s = run_requests(engine, [batch.ttft_prompt], [1], clock)
        whole_s = run_requests(engine, batch.prompts, batch.num_outputs, clock)
        decode_s = whole_s - first_s
        return Rep(batch=batch, is_decode_only=True, compared_s=decode_s), {
            "decode_tok_s": (num_output - len(batch.prompts)) / decode_s,
            "ttft_ms": 1000 * first_s,
            "e2e_tok_s": num_output / whole_s,
        }
    whole_s = run_requests(engine, batch.prompts, batch.num_outputs, clock)
    rep = Rep(batch=batch, is_decode_only=False, compared_s=whole_s)
    if max(batch.num_outputs) == 1:
        return rep, {"prompt_tok_s": sum(map(len, batch.prompts)) / whole_s}
    return rep, {"output_tok_s": num_output / whole_s}


def run_requests(
    engine: SyncEngine,
    prompts: Sequence[tuple[int, ...]],
    num_outputs: Sequence[int],
    clock: Clock = time.perf_counter,
) -> float:
    """Submits all requests at once and runs the engine until they end. Returns the seconds.

    Raises:
      RuntimeError: a request ended with another number of tokens than requested.
    """
    requests = [
        Request(
            request_id=f"bench-{i}",
            prompt_token_ids=prompt,
            sampling=SamplingParams(temperature=0, max_tokens=num_output, ignore_eos=True),
        )
        for i, (prompt, num_output) in enumerate(zip(prompts, num_outputs, strict=True))
    ]
    wanted = dict(zip((r.request_id for r in requests), num_outputs, strict=True))
    start_s = clock()
    for request in requests:
        engine.add(engine.check(request))
    while wanted:
        for event in engine.step():
            finish = event.finish
            if finish is None:
                continue
            num_wanted = wanted.pop(event.request_id)
            if finish.reason != FinishReason.LENGTH or finish.num_output_tokens != num_wanted:
                raise RuntimeError(
                    f"{event.request_id} ended by {finish.reason} after "
                    f"{finish.num_output_tokens} tokens, not after {num_wanted}: {finish.error}"
                )
    elapsed_s = clock() - start_s
    while engine.has_work:  # a step that was planned before the last token arrived
        engine.step()
    return elapsed_s
