"""The lines of the log about a running fine-tuning job: about a dozen, however long it is.

They never quote a record. Deliberately does not know the database or the trainer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from flaxen.job_routes.storage.pages import Row

logger = logging.getLogger("flaxen.server")

_NUM_LINES = 10  # of steps


class JobLog:
    """Logs one run of a job in this process."""

    def __init__(self, job: Row) -> None:
        self._id = {"job_id": job["id"]}
        self._job = job
        self._start_s = time.monotonic()
        self._metrics: dict[str, Any] = {}  # of the latest step

    def started(self, *, is_resumed: bool) -> None:
        """Logs that the job trains from now on."""
        logger.info(
            "fine-tuning job %(job_id)s goes on where it was stopped"
            if is_resumed
            else "fine-tuning job %(job_id)s trains",
            self._id,
            extra={"model": self._job["model"], "method": self._job["method"]},
        )

    def planned(self, hyperparameters: Mapping[str, float]) -> None:
        """Logs that the files are read. The first step takes longest, because it is compiled."""
        logger.info(
            "fine-tuning job %(job_id)s has read its files and begins its first step",
            self._id,
            extra=dict(hyperparameters),
        )

    def stepped(
        self, step: int, num_steps: int, metrics: Mapping[str, float], num_tokens: int
    ) -> None:
        """Logs every tenth part of the steps, and the last."""
        self._metrics = {name: round(value, 4) for name, value in metrics.items()}
        self._metrics["trained_tokens"] = num_tokens
        every = -(-num_steps // _NUM_LINES)
        if step % every == 0 or step == num_steps:
            logger.info(
                "fine-tuning job %(job_id)s: step %(step)d of %(num_steps)d",
                {**self._id, "step": step, "num_steps": num_steps},
                extra=self._metrics,
            )

    def checkpointed(self, step: int, model_name: str) -> None:
        """Logs that a checkpoint can be used."""
        logger.info(
            "fine-tuning job %(job_id)s: the model of step %(step)d is served",
            {**self._id, "step": step},
            extra={"model": model_name},
        )

    def ended(self, job: Row) -> None:
        """Logs how the run ended. A job that is still running goes on with the next server."""
        if job["status"] == "failed":
            return  # logged where its reason is known
        seconds = round(time.monotonic() - self._start_s, 1)
        extra = {**self._metrics, "model": job["model_name"], "seconds": seconds}
        if job["status"] == "running":
            message = "fine-tuning job %(job_id)s stops here; it goes on at the next start"
            logger.info(message, self._id, extra=extra)
            return
        values = {**self._id, "job_status": job["status"]}
        logger.info("fine-tuning job %(job_id)s has ended: %(job_status)s", values, extra=extra)
