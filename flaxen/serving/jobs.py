"""Jobs beside serving: connects stores, workers and routes to the serving engine.

Jobs train on the engine's own weights, and the engine serves the results. Deliberately does not
know: options, the job list, file storage, training.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

from fastapi import FastAPI

from flaxen.build import Parts
from flaxen.data.stopping import StoppedError
from flaxen.data.validate import JobMethod, validate_file
from flaxen.hub.weight_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from flaxen.job_routes.batches.asking import Asking
from flaxen.job_routes.batches.batch_worker import BatchWorker
from flaxen.job_routes.fine_tuning.job_worker import JobWorker
from flaxen.job_routes.fine_tuning.trainer import FineTunedModel, JobProgress, TrainingJob
from flaxen.job_routes.fine_tuning.tuned_models import FineTunedModels
from flaxen.job_routes.mount import mount_jobs
from flaxen.job_routes.stores import Stores
from flaxen.models.adapters import LoraConfig, lora_targets
from flaxen.protocol import AdapterSource, EngineClient, EngineClosedError
from flaxen.server.config import ServerConfig
from flaxen.training.jobs.plan import Hyperparameters
from flaxen.training.jobs.spec import (
    Base,
    JobCallbacks,
    JobSpec,
    adapter_directory,
    state_directory,
)
from flaxen.training.jobs.time_share import TimeShare
from flaxen.weights.adapters.peft import load_adapter

_MAX_LENGTH = 2048  # the most tokens of a training sequence; memory grows with it


@contextlib.contextmanager
def add_jobs(
    app: FastAPI,
    config: ServerConfig,
    stores: Stores,
    engine: EngineClient,
    parts: Parts,
    *,
    share: float,
) -> Iterator[BatchWorker]:
    """Adds the routes of files, jobs and batches to an application, and runs jobs during the block.

    The server runs what is given, on its event loop: it answers the batches.

    Args:
      app: the server's application, not serving yet.
      config: the server's configuration.
      stores: the files and jobs.
      engine: serves the model that jobs adapt, and the resulting adapters.
      parts: the parts of the engine.
      share: the share of the time that a job trains while requests run, above 0 and at most 1.
    """
    base = Base(
        model=parts.model,
        params=parts.params,  # the served arrays themselves, not copies
        tokenizer=parts.tokenizer,
        name=parts.info.name,
        max_length=min(parts.info.max_model_len, _MAX_LENGTH),
    )
    trainer = EngineTrainer(
        engine,
        base,
        stores.jobs_directory,
        share=share,
        max_rank=stores.config.fine_tuning.max_lora_rank,
    )
    models = FineTunedModels(stores.jobs, trainer)
    models.serve_all()
    is_closing = functools.partial(_is_closing, engine)
    batches = BatchWorker(
        stores.batches, stores.files, Asking(app, config).ask, stores.config.batches
    )
    with JobWorker(stores.jobs, stores.files, trainer, is_closing=is_closing) as worker:
        mount_jobs(
            app,
            config,
            stores,
            models,
            base_models=config.served_model_names or (engine.info.name,),
            on_change=worker.wake,
            on_batch=batches.wake,
        )
        yield batches


def _is_closing(engine: EngineClient) -> bool:
    try:
        engine.check_health()
    except EngineClosedError:  # raised from the beginning of a drain
        return True
    return False


class EngineTrainer:
    """The server's Trainer: trains on an engine's own weights, and lets it serve the result."""

    def __init__(
        self, engine: EngineClient, base: Base, directory: Path, *, share: float, max_rank: int
    ) -> None:
        self._engine, self._base = engine, base
        self._directory, self._max_rank = directory, max_rank
        self._time_share = TimeShare(share=share, is_busy=self._is_busy)

    def validate(
        self, path: Path, method: str, should_stop: Callable[[], bool]
    ) -> Sequence[tuple[int, str]] | None:
        """The errors of a file; None if the check was stopped first."""
        try:
            return validate_file(path, cast(JobMethod, method), should_stop=should_stop).errors
        except StoppedError:
            return None

    def train(self, job: TrainingJob, progress: JobProgress) -> bool:
        """Trains or resumes a job. Returns whether it finished."""
        # Imported here, because optax and other modules of jobs take half a second: a server should
        # not wait for them at its start.
        from flaxen.training.jobs.run import run_job

        spec = JobSpec(
            method=cast(JobMethod, job.method),
            training_file=job.training_file,
            validation_file=job.validation_file,
            hyperparameters=Hyperparameters(
                n_epochs=job.n_epochs,
                batch_size=job.batch_size,
                learning_rate_multiplier=job.learning_rate_multiplier,
                beta=job.beta,
            ),
            lora=LoraConfig(
                rank=job.lora_rank,
                alpha=job.lora_alpha,
                targets=lora_targets(self._base.model),
            ),
            seed=job.seed,
            directory=self._directory / job.id,
        )
        callbacks = JobCallbacks(
            on_start=progress.started,
            on_step=progress.stepped,
            on_checkpoint=progress.checkpointed,
            should_stop=progress.should_stop,
            rest=lambda worked_s: self._time_share.rest(worked_s, progress.should_stop),
        )
        return run_job(spec, self._base, callbacks)

    def serve(self, model: FineTunedModel) -> None:
        """Registers a job's adapter, which is loaded when a request first names it.

        Raises:
          ValueError: the adapter is missing, or its rank is larger than the server's limit.
        """
        path = self._adapter(model)
        if not path.is_dir():
            raise ValueError(f"{path} is not there")
        if model.rank > self._max_rank:
            raise ValueError(f"its rank is {model.rank}: start with --max-lora-rank {model.rank}")
        read = functools.partial(load_adapter, path, self._base.model, max_rank=self._max_rank)
        source = AdapterSource(rank=model.rank, created=model.created, read=read)
        self._engine.register_adapter(model.name, source)

    def unload(self, name: str) -> None:
        """Unloads an adapter's weights from memory."""
        with contextlib.suppress(ValueError):  # the adapter is not served
            self._engine.unload_adapter(name)

    def remove(self, model: FineTunedModel) -> None:
        """Stops serving an adapter and removes its files, but no other files."""
        with contextlib.suppress(ValueError):  # the adapter is not served
            self._engine.remove_adapter(model.name)
        path = self._adapter(model)
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            (path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the directory has other files, or is gone
            path.rmdir()

    def _adapter(self, model: FineTunedModel) -> Path:
        return adapter_directory(self._directory / model.job_id, model.step)

    def remove_state(self, job_id: str) -> None:
        """Removes the state that is only needed to resume a job."""
        shutil.rmtree(state_directory(self._directory / job_id), ignore_errors=True)

    def _is_busy(self) -> bool:
        stats = self._engine.stats()
        return stats.num_running + stats.num_waiting > 0
