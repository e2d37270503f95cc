"""Runs fine-tuning jobs one after the other on its own threads, and records their progress.

A job's row has its whole state: after a kill, the next server finds the running job there and
resumes it. Deliberately does not know HTTP, nor how files are read and models trained (`Trainer`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from flaxen.job_routes.fine_tuning.job_log import JobLog
from flaxen.job_routes.fine_tuning.job_progress import JobRecorder, JobWatch
from flaxen.job_routes.fine_tuning.job_store import ENDED, JobStore
from flaxen.job_routes.fine_tuning.trainer import Trainer, TrainingJob
from flaxen.job_routes.fine_tuning.training_files import TrainingFiles
from flaxen.job_routes.storage.directory import is_disk_full
from flaxen.job_routes.storage.pages import Row

logger = logging.getLogger("flaxen.server")

_NUM_NAMED = 20  # the most invalid lines in an error
_POLL_S = 30.0  # between two checks of the jobs, in case a wake-up is lost


class JobWorker:
    """A context manager that works until it is left; a running job then stays to be resumed.

    Args:
      jobs: the store of jobs.
      files: the files that they train on.
      trainer: runs the jobs.
      is_closing: whether the server is shutting down, which is known before the context is left.
    """

    def __init__(
        self,
        jobs: JobStore,
        files: TrainingFiles,
        trainer: Trainer,
        *,
        is_closing: Callable[[], bool] = lambda: False,
    ) -> None:
        self._jobs, self._files, self._trainer = jobs, files, trainer
        self._is_closing = is_closing
        self._changed = threading.Condition()
        self._num_changes = 0
        self._stopping = False
        # Files are validated in a thread of their own, because training may take hours.
        self._threads = [
            threading.Thread(target=self._run, args=args, name=f"flaxen-{args[0]}", daemon=True)
            for args in (
                ("validation", ("validating_files",), self._validate),
                ("training", ("running", "queued"), self._train),
            )
        ]

    def __enter__(self) -> JobWorker:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self.wait()

    def wake(self) -> None:
        """Announces that a job was created or changed."""
        with self._changed:
            self._num_changes += 1
            self._changed.notify_all()

    def wait(self) -> None:
        """Waits, after a shutdown was announced in either way, until no job is worked on."""
        for thread in self._threads:
            thread.join()

    def _run(self, name: str, statuses: Sequence[str], work: Callable[[Row], None]) -> None:
        while True:
            with self._changed:
                seen = self._num_changes
            if self._is_ending():
                return
            try:
                job = self._jobs.oldest(statuses)
                if job is not None:
                    work(job)
                    continue
            # For example the database is down: the jobs are still there when it is back.
            except Exception:
                logger.exception("%s of fine-tuning jobs failed; trying again", name)
            with self._changed:
                if self._num_changes == seen and not self._stopping:
                    self._changed.wait(_POLL_S)

    def _is_ending(self) -> bool:
        return self._stopping or self._is_closing()

    def _watch(self, job: Row, statuses: Collection[str]) -> JobWatch:
        return JobWatch(self._jobs, job["id"], statuses, self._is_ending)

    def _validate(self, job: Row) -> None:
        of = ("validating_files",)
        watch = self._watch(job, of)
        named = [name for name in ("training_file", "validation_file") if job[name] is not None]
        what = " and ".join(f"{name.replace('_', ' ')}: {job[name]}" for name in named)
        self._jobs.add_event(job["id"], f"Validating {what}")
        for param in named:
            try:
                path = self._files.path(job[param])
                wrong = self._trainer.validate(path, job["method"], watch.should_stop)
            except Exception:
                logger.exception(
                    "fine-tuning job %(job_id)s: the file %(file_id)s can't be validated",
                    {"job_id": job["id"], "file_id": job[param]},
                )
                wrong = [(1, "the server can't read the file; its log has the cause")]
            if wrong is None:
                return  # cancelled, or the next server validates it again
            if wrong:
                message = (
                    f"The job failed due to an invalid {param.replace('_', ' ')}. "
                    + "; ".join(f"line {line}: {why}" for line, why in wrong[:_NUM_NAMED])
                )
                self._fail(job["id"], f"invalid_{param}", message, param, of)
                return
        messages = ["Files validated, moving job to queued state"]
        if self._jobs.change_status(job["id"], "queued", of=of, messages=messages):
            logger.info("fine-tuning job %(job_id)s is queued", {"job_id": job["id"]})
        self.wake()

    def _train(self, job: Row) -> None:
        if job["status"] == "queued":
            messages = ["Fine-tuning job started"]
            if not self._jobs.change_status(
                job["id"], "running", of=("queued",), messages=messages
            ):
                return
        log = JobLog(job)
        log.started(is_resumed=job["status"] == "running")
        self._run_trainer(job, log)
        row = self._jobs.get(job["id"])
        if row["status"] in ENDED:
            self._trainer.remove_state(job["id"])
        log.ended(row)

    def _run_trainer(self, job: Row, log: JobLog) -> None:
        job_id = job["id"]
        watch = self._watch(job, ("running",))
        progress = JobRecorder(self._jobs, self._trainer, job, watch, log)
        try:
            files = [self._files.path(job["training_file"]), None]
            if job["validation_file"] is not None:
                files[1] = self._files.path(job["validation_file"])
            is_done = self._trainer.train(_training_job(job, files), progress)
        except ValueError as error:
            self._fail(job_id, "training_failed", self._cleaned(job, str(error)), None)
            return
        except Exception as error:
            logger.exception(
                "fine-tuning job %(job_id)s failed: a fault of the server", {"job_id": job_id}
            )
            self._fail(job_id, *_told(error), None)
            return
        if is_done:
            messages = [
                f"New fine-tuned model created: {job['model_name']}",
                "The job has successfully completed",
            ]
            self._jobs.change_status(job_id, "succeeded", of=("running",), messages=messages)

    def _fail(
        self,
        job_id: str,
        code: str,
        message: str,
        param: str | None,
        of: Sequence[str] = ("running",),
    ) -> None:
        error = {"code": code, "message": message, "param": param}
        self._jobs.change_status(
            job_id, "failed", of=of, messages=[message], level="error", error=error
        )
        # Without the message, which may quote a record.
        logger.warning(
            "fine-tuning job %(job_id)s failed; its events say why",
            {"job_id": job_id},
            extra={"code": code},
        )

    def _cleaned(self, job: Row, message: str) -> str:
        """Removes this machine's paths, which clients must not see, from a message."""
        for param in ("training_file", "validation_file"):
            if job[param] is not None:
                message = message.replace(str(self._files.path(job[param])), job[param])
        return message


def _told(error: Exception) -> tuple[str, str]:
    """The code and message for a failure that the job did not cause."""
    if isinstance(error, OSError) and is_disk_full(error):
        return "disk_full", (
            "The server's disk is full. Delete files and models that are no longer needed, or have "
            "room made by whoever runs the server; then create the job again"
        )
    return "server_error", (
        "The server failed on this job, and its log has the cause: tell whoever runs the server. "
        "To try again, create the job again"
    )


def _training_job(job: Row, files: Sequence[Path | None]) -> TrainingJob:
    numbers = {k: None if v == "auto" else v for k, v in job["hyperparameters"].items()}
    training_file, validation_file = files
    assert training_file is not None
    return TrainingJob(
        id=job["id"],
        method=job["method"],
        training_file=training_file,
        validation_file=validation_file,
        n_epochs=numbers["n_epochs"],
        batch_size=numbers["batch_size"],
        learning_rate_multiplier=numbers["learning_rate_multiplier"],
        beta=numbers.get("beta"),
        lora_rank=job["lora"]["rank"],
        lora_alpha=job["lora"]["alpha"],
        seed=job["seed"],
    )
