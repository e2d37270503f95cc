"""Runs every engine on every workload, interleaved, and keeps their figures.

Within a repetition the engines take turns, each time another one first, so that a machine that
slows down slows all of them; those that wait are stopped. Deliberately does not know which engines
there are, nor what the figures should be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flaxen.benchmark.measure import Rep
from flaxen.benchmark.workloads import RequestBatch, Workload

from .worker import UnsupportedError, Worker, WorkerError, start

OnProgress = Callable[[str], None]  # called with what is being done


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How to start one engine, and the sizes of what it holds."""

    name: str  # the peer's, a dash, the number format: vllm-bf16
    command: tuple[str, ...]
    env: Mapping[str, str]
    weight_bits: float  # for each parameter of a matrix, scales and the like included
    cache_bits: float  # for each element of the keys and values
    kv_bytes: int  # of its pool


@dataclass(kw_only=True)
class Measured:
    """One engine's figures on one workload, a value for each repetition that it ran."""

    figures: dict[str, list[float]] = field(default_factory=dict)  # the first is compared
    reps: list[Rep] = field(default_factory=list)

    @property
    def speeds(self) -> list[float]:
        """The figure to compare by, in tokens a second."""
        return next(iter(self.figures.values()))


@dataclass(kw_only=True)
class Outcome:
    """The result of one engine."""

    engine: Engine
    versions: dict[str, str] = field(default_factory=dict)
    startup_s: float = 0.0
    peak_rss_bytes: int = 0
    measured: dict[str, Measured] = field(default_factory=dict)  # workload -> figures
    error: str | None = None  # why it stopped early


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run, and how long it may take.

    Raises:
      ValueError: no repetitions, or none of a workload's.
    """

    workloads: Mapping[str, Workload]  # "warmup" among them
    names: Sequence[str]
    num_reps: int
    startup_timeout_s: float
    run_timeout_s: float  # of one batch of requests

    def __post_init__(self) -> None:
        if self.num_reps < 1:
            raise ValueError(f"the number of repetitions must be at least 1, got {self.num_reps}")
        for name in self.names:
            if name not in self.workloads:
                known = ", ".join(self.workloads)
                raise ValueError(f"there is no workload {name!r}: choose from {known}")


def compare(
    engines: Sequence[Engine], plan: Plan, logs: Path, on_progress: OnProgress
) -> list[Outcome]:
    """Starts the engines, runs the plan, and stops them. An engine that fails does not stop the
    others.

    Args:
      engines: with names of their own.
      plan: what to run.
      logs: directory for <engine>.log.
      on_progress: told what is about to run.
    """
    outcomes = [Outcome(engine=engine) for engine in engines]
    if not outcomes:
        return []
    workers: dict[str, Worker] = {}
    try:
        for outcome in outcomes:
            on_progress(f"{outcome.engine.name} starts")
            _start(outcome, workers, plan, logs)
        for name in plan.names:
            for outcome in outcomes:
                on_progress(f"{name}: {outcome.engine.name} warms up")
                _attempt(outcome, workers, plan, plan.workloads["warmup"].batches[0], None)
            for i, batch in enumerate(plan.workloads[name].batches[: plan.num_reps]):
                first = i % len(outcomes)
                for outcome in outcomes[first:] + outcomes[:first]:
                    on_progress(f"{name} {i + 1}/{plan.num_reps}: {outcome.engine.name}")
                    _attempt(outcome, workers, plan, batch, name)
    finally:
        for worker in workers.values():
            worker.group.end()
    return outcomes


def _start(outcome: Outcome, workers: dict[str, Worker], plan: Plan, logs: Path) -> None:
    engine = outcome.engine
    log = logs / f"{engine.name}.log"
    try:
        started = start(engine.command, engine.env, log, plan.startup_timeout_s)
    except WorkerError as error:
        outcome.error = str(error)
        return
    workers[engine.name] = started.worker
    outcome.versions, outcome.startup_s = started.versions, started.startup_s


def _attempt(
    outcome: Outcome, workers: dict[str, Worker], plan: Plan, batch: RequestBatch, name: str | None
) -> None:
    """Runs one batch on an engine that has not failed; a batch without a name is not recorded."""
    worker = workers.get(outcome.engine.name)
    if worker is None:
        return
    worker.group.resume()
    try:
        rep, figures = run_batch(worker, batch, plan.run_timeout_s)
    except UnsupportedError:
        pass
    except WorkerError as error:
        _fail(outcome, workers, error)
        return
    else:
        if name is not None:
            measured = outcome.measured.setdefault(name, Measured())
            measured.reps.append(rep)
            for figure, value in figures.items():
                measured.figures.setdefault(figure, []).append(value)
    worker.group.pause()
    outcome.peak_rss_bytes = worker.group.peak_rss_bytes()


def _fail(outcome: Outcome, workers: dict[str, Worker], error: WorkerError) -> None:
    outcome.error = str(error)
    workers.pop(outcome.engine.name).group.end()


def run_batch(
    worker: Worker, batch: RequestBatch, timeout_s: float
) -> tuple[Rep, dict[str, float]]:
    """Runs a batch. The figures are those of `flaxen bench`, by the same definitions.

    Raises:
      WorkerError, UnsupportedError: as Worker.run.
    """
    first_s = 0.0
    if batch.ttft_prompt is not None:
        first_s = worker.run([batch.ttft_prompt], [1], timeout_s).wall_s
    run = worker.run(batch.prompts, batch.num_outputs, timeout_s)
    rest_s = run.wall_s - first_s
    rep = Rep(batch=batch, is_decode_only=batch.ttft_prompt is not None, compared_s=rest_s)
    if batch.ttft_prompt is not None:
        decode_tok_s = (run.num_tokens - len(batch.prompts)) / rest_s
        return rep, {"decode_tok_s": decode_tok_s, "ttft_ms": 1000 * first_s}
    if max(batch.num_outputs) == 1:
        return rep, {"prompt_tok_s": sum(map(len, batch.prompts)) / run.wall_s}
    return rep, {"output_tok_s": run.num_tokens / run.wall_s}
