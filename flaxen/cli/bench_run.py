"""Runs workloads on an engine, and turns the times into figures.

Knows: how each figure is computed. Deliberately does not know tables, files or how engines work.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from flaxen.cli.bench_ideal import ModelCost, ideal
from flaxen.cli.bench_limits import Limits
from flaxen.cli.bench_workloads import Batch, Workload
from flaxen.protocol import EngineStats, FinishReason, Request, SamplingParams, TokenEvent


class SyncEngine(Protocol):
    """An engine that works when it is told to."""

    @property
    def has_work(self) -> bool: ...
    @property
    def schedule_s(self) -> float: ...
    def add(self, request: Request) -> None: ...
    def step(self) -> Sequence[TokenEvent]: ...
    def stats(self) -> EngineStats: ...


@dataclass(frozen=True, kw_only=True)
class Result:
    """One workload's figures, a value for each repetition."""

    name: str
    description: str
    figures: dict[str, list[float]]  # the first is the one to compare by
    limit_shares: list[float]  # of the least time the machine needs, see bench_ideal
    kv_waste: float  # share of the slots in used pages that held no token
    scheduler_share: float  # of the time, spent planning steps

    def median(self, figure: str) -> float:
        """The middle value of a figure's repetitions."""
        return statistics.median(self.figures[figure])


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all workloads of one run are measured with."""

    engine: SyncEngine
    cost: ModelCost
    limits: Limits

    def run(self, workload: Workload, num_reps: int, on_rep: Callable[[int], None]) -> Result:
        """Runs a workload's first repetitions, timed one by one.

        Args:
          workload: its requests are greedy, and ignore the end of sequence.
          num_reps: at most the workload's own.
          on_rep: told the number of repetitions done after each.

        Raises:
          ValueError: the engine can't serve a request of this length.
          RuntimeError: a request ended with other than the tokens asked for.
        """
        figures: dict[str, list[float]] = {}
        shares: list[float] = []
        before, schedule_before_s = self.engine.stats(), self.engine.schedule_s
        total_s = 0.0
        for num_done, batch in enumerate(workload.batches[:num_reps], 1):
            elapsed_s, rep, share = self._run_rep(batch)
            total_s += elapsed_s
            shares.append(share)
            for name, value in rep.items():
                figures.setdefault(name, []).append(value)
            on_rep(num_done)
        after = self.engine.stats()
        allocated = after.sum_slots_allocated - before.sum_slots_allocated
        held = after.sum_slots_held - before.sum_slots_held
        return Result(
            name=workload.name,
            description=workload.description,
            figures=figures,
            limit_shares=shares,
            kv_waste=1 - held / allocated,
            scheduler_share=(self.engine.schedule_s - schedule_before_s) / total_s,
        )

    def _run_rep(self, batch: Batch) -> tuple[float, dict[str, float], float]:
        """Returns the seconds it took, its figures, and its share of the limit."""
        num_output = sum(batch.num_outputs)
        least = ideal(self.cost, self.limits, batch.prompts, batch.num_outputs)
        if batch.ttft_prompt is not None:
            # As other engines are measured: a prompt of the same length with one output token gives
            # the time to the first, and what a whole run takes longer is the others'.
            first_s = run_requests(self.engine, [batch.ttft_prompt], [1])
            whole_s = run_requests(self.engine, batch.prompts, batch.num_outputs)
            decode_s = whole_s - first_s
            figures = {
                "decode_tok_s": (num_output - 1) / decode_s,
                "ttft_ms": 1000 * first_s,
                "e2e_tok_s": num_output / whole_s,
            }
            return first_s + whole_s, figures, least.decode_s / decode_s
        whole_s = run_requests(self.engine, batch.prompts, batch.num_outputs)
        share = (least.prefill_s + least.decode_s) / whole_s
        if max(batch.num_outputs) == 1:
            return whole_s, {"prompt_tok_s": sum(map(len, batch.prompts)) / whole_s}, share
        return whole_s, {"output_tok_s": num_output / whole_s}, share


def run_requests(
    engine: SyncEngine, prompts: Sequence[tuple[int, ...]], num_outputs: Sequence[int]
) -> float:
    """Submits all requests at once and runs the engine dry. Returns the seconds that took.

    Raises:
      RuntimeError: a request ended with other than the tokens asked for.
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
    start_s = time.perf_counter()
    for request in requests:
        engine.add(request)
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
    elapsed_s = time.perf_counter() - start_s
    while engine.has_work:  # a step planned before the last token came
        engine.step()
    return elapsed_s
