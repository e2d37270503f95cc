"""Workload L: LoRA fine-tuning, interleaved; tokens a second, memory, and the loss of each step.

Every trainer begins with the same adapters and sees the same tokens, so that after each step their
losses can be compared. Deliberately does not know which trainers there are, nor what their figures
should be.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flaxen.benchmark.workloads import SEED

from .worker import UnsupportedError, Worker, WorkerError, start

NUM_ROWS = 4
ROW_LENGTH = 256  # tokens; one sequence, without padding
STEPS_PER_TURN = 2
_NUM_IDS = 256  # different tokens, so that a few steps already show in the loss

Step = tuple[tuple[int, ...], ...]  # rows of token ids


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """How to start one trainer."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]


@dataclass(kw_only=True)
class TrainerOutcome:
    """The result of one trainer."""

    trainer: Trainer
    versions: dict[str, str] = field(default_factory=dict)
    startup_s: float = 0.0
    first_step_s: float = 0.0  # the warm-up's, in which flaxen compiles
    peak_rss_bytes: int = 0
    tokens_s: list[float] = field(default_factory=list)  # of each turn
    losses: list[float] = field(default_factory=list)  # of each step, the warm-up's first
    error: str | None = None  # why it stopped early


def make_steps(vocab_size: int, num_steps: int) -> list[Step]:
    """The tokens of each step: the same for the same arguments.

    Args:
      vocab_size: of the model; ids at both ends, where special tokens live, are left out.
      num_steps: at least 1.
    """
    rng = random.Random(f"{SEED}/L")
    margin = vocab_size // 40
    ids = [rng.randrange(margin, vocab_size - margin) for _ in range(_NUM_IDS)]
    return [
        tuple(tuple(rng.choices(ids, k=ROW_LENGTH)) for _ in range(NUM_ROWS))
        for _ in range(num_steps)
    ]


def compare_trainers(
    trainers: Sequence[Trainer],
    steps: Sequence[Step],
    timeout_s: float,
    logs: Path,
    on_progress: Callable[[str], None],
) -> list[TrainerOutcome]:
    """Starts the trainers, trains in turns, and ends them. A failure does not stop the others.

    Args:
      trainers: with names of their own.
      steps: the first warms up; the others are made in turns of STEPS_PER_TURN.
      timeout_s: for a start, and for one turn.
      logs: directory for train-<name>.log.
      on_progress: told what is about to run.
    """
    outcomes = [TrainerOutcome(trainer=trainer) for trainer in trainers]
    if not outcomes:
        return []
    workers: dict[str, Worker] = {}
    try:
        for outcome in outcomes:
            on_progress(f"L: {outcome.trainer.name} starts")
            _start(outcome, workers, timeout_s, logs)
        for outcome in outcomes:
            on_progress(f"L: {outcome.trainer.name} warms up")
            outcome.first_step_s = _train(outcome, workers, steps[:1], timeout_s)
        turns = [
            steps[first : first + STEPS_PER_TURN] for first in range(1, len(steps), STEPS_PER_TURN)
        ]
        for i, turn in enumerate(turns):
            first = i % len(outcomes)
            for outcome in outcomes[first:] + outcomes[:first]:
                on_progress(f"L {i + 1}/{len(turns)}: {outcome.trainer.name}")
                wall_s = _train(outcome, workers, turn, timeout_s)
                if wall_s:
                    num_tokens = sum(len(row) for step in turn for row in step)
                    outcome.tokens_s.append(num_tokens / wall_s)
    finally:
        for worker in workers.values():
            worker.group.end()
    return outcomes


def _start(
    outcome: TrainerOutcome, workers: dict[str, Worker], timeout_s: float, logs: Path
) -> None:
    trainer = outcome.trainer
    log = logs / f"train-{trainer.name}.log"
    try:
        started = start(trainer.command, trainer.env, log, timeout_s)
    except WorkerError as error:
        outcome.error = str(error)
        return
    workers[trainer.name] = started.worker
    outcome.versions, outcome.startup_s = started.versions, started.startup_s


def _train(
    outcome: TrainerOutcome, workers: dict[str, Worker], steps: Sequence[Step], timeout_s: float
) -> float:
    """Runs steps on a trainer that has not failed. Returns their seconds; 0 if it has failed."""
    worker = workers.get(outcome.trainer.name)
    if worker is None:
        return 0.0
    worker.group.resume()
    try:
        run = worker.train(steps, timeout_s)
    except (WorkerError, UnsupportedError) as error:
        outcome.error = str(error)
        workers.pop(outcome.trainer.name).group.end()
        return 0.0
    worker.group.pause()
    outcome.peak_rss_bytes = worker.group.peak_rss_bytes()
    outcome.losses += run.losses
    return run.wall_s
