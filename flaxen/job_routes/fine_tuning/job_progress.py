"""Writes a running job's progress to its rows, and reads its status from them.

Deliberately does not know the trainer or its thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

from flaxen.job_routes.fine_tuning.job_log import JobLog
from flaxen.job_routes.fine_tuning.job_store import JobStore
from flaxen.job_routes.fine_tuning.trainer import FineTunedModel, Trainer
from flaxen.job_routes.storage.pages import Row

_STATUS_S = 0.2  # between two checks of a running job's status


class JobWatch:
    """Tells whether to stop a job; cheap enough to be asked before each record."""

    def __init__(
        self, jobs: JobStore, job_id: str, statuses: Collection[str], is_ending: Callable[[], bool]
    ) -> None:
        self._jobs, self._job_id, self._statuses = jobs, job_id, statuses
        self._is_ending = is_ending
        self._asked_s, self._stops = float("-inf"), False

    def should_stop(self) -> bool:
        """Whether the job's status has changed, or the server is shutting down."""
        now = time.monotonic()
        if not self._stops and now - self._asked_s > _STATUS_S:
            status = self._jobs.status(self._job_id)
            self._stops = status not in self._statuses or self._is_ending()
            self._asked_s = now
        return self._stops


class JobRecorder:
    """A JobProgress that writes to the database."""

    def __init__(
        self, jobs: JobStore, trainer: Trainer, job: Row, watch: JobWatch, log: JobLog
    ) -> None:
        self._jobs, self._trainer, self._job, self._watch = jobs, trainer, job, watch
        self._log = log
        # The time and number of this process's first step.
        self._begin: tuple[float, int] | None = None

    def started(self, hyperparameters: Mapping[str, float]) -> None:
        self._jobs.set(self._job["id"], hyperparameters=dict(hyperparameters))
        self._log.planned(hyperparameters)

    def stepped(
        self, step: int, num_steps: int, metrics: Mapping[str, float], num_tokens: int
    ) -> None:
        self._log.stepped(step, num_steps, metrics, num_tokens)
        now = time.time()
        if self._begin is None:
            self._begin = (now, step)
        since, first = self._begin
        rest = (now - since) / max(1, step - first) * (num_steps - step)
        parts = [f"training loss={metrics['train_loss']:.2f}"]
        if "valid_loss" in metrics:
            parts.append(f"validation loss={metrics['valid_loss']:.2f}")
        self._jobs.add_step(
            self._job["id"],
            step,
            f"Step {step}/{num_steps}: {', '.join(parts)}",
            {"step": step, "total_steps": num_steps, **metrics},
            trained_tokens=num_tokens,
            estimated_finish=int(now + rest) if step > first else None,
        )

    def checkpointed(self, step: int, metrics: Mapping[str, float], is_last: bool) -> None:
        name = self._job["model_name"] if is_last else f"{self._job['model_name']}:ckpt-step-{step}"
        model = FineTunedModel(
            name=name,
            job_id=self._job["id"],
            step=step,
            rank=self._job["lora"]["rank"],
            created=int(time.time()),
        )
        if self._jobs.is_deleted(name):  # deleted, and made again by a job that resumed earlier
            self._trainer.remove(model)
        else:
            self._trainer.serve(model)
        self._log.checkpointed(step, name)
        self._jobs.add_checkpoint(self._job["id"], step, name, {"step": step, **metrics})

    def should_stop(self) -> bool:
        return self._watch.should_stop()
