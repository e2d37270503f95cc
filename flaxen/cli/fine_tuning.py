"""The options of fine-tuning, and how its parts are wired: store, worker, trainer, engine.

Deliberately imports neither JAX nor the web framework before it must: help waits for neither.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from flaxen.cli import options
from flaxen.cli.sizes import parse_size

if TYPE_CHECKING:
    from fastapi import FastAPI

    from flaxen.build import Parts
    from flaxen.protocol import EngineClient
    from flaxen.server.config import ServerConfig
    from flaxen.server.fine_tuning_stores import Stores
    from flaxen.server.fine_tuning_trainer import FineTunedModel, Progress, TrainingJob
    from flaxen.train.jobs_spec import Base

PANEL = "Fine-tuning"
DEFAULT_SHARE = 0.2
DEFAULT_FILE_BYTES = parse_size("512MiB")  # OpenAI's
DEFAULT_TOTAL_BYTES = parse_size("8GiB")
_MAX_LENGTH = 2048  # tokens of a training sequence; memory grows with it

DataDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        file_okay=False,
        help="Serve /v1/files and /v1/fine_tuning/jobs, and keep files, jobs and models there.",
        show_default="neither is served",
        rich_help_panel=PANEL,
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        envvar="FLAXEN_DATABASE_URL",
        help="Where jobs and files are listed, as postgresql+psycopg://USER:PASSWORD@HOST/NAME; of "
        "one server alone.",
        show_default="SQLite in --data-dir",
        rich_help_panel=PANEL,
    ),
]
Share = Annotated[
    float,
    typer.Option(
        help="Share of the time that a job trains while requests run, above 0 to 1; while none "
        "runs it has all of it.",
        rich_help_panel=PANEL,
    ),
]
MaxFileSize = Annotated[
    int,
    typer.Option(
        parser=options.size,
        metavar="SIZE",
        help="Largest file of an upload.",
        show_default="512MiB",
        rich_help_panel=PANEL,
    ),
]
MaxFilesSize = Annotated[
    int,
    typer.Option(
        parser=options.size,
        metavar="SIZE",
        help="All files together.",
        show_default="8GiB",
        rich_help_panel=PANEL,
    ),
]


@dataclass(frozen=True, kw_only=True)
class FineTuningOptions:
    """The options as they were given.

    Raises:
      ValueError: one has no effect without --data-dir, or is out of its range.
    """

    data_dir: Path | None
    database_url: str | None
    share: float
    max_file_bytes: int
    max_total_bytes: int

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"--fine-tuning-share must be above 0 and at most 1, got {self.share}")
        for name, is_given in (
            ("--database-url", self.database_url is not None),
            ("--fine-tuning-share", self.share != DEFAULT_SHARE),
            ("--max-file-size", self.max_file_bytes != DEFAULT_FILE_BYTES),
            ("--max-files-size", self.max_total_bytes != DEFAULT_TOTAL_BYTES),
        ):
            if self.data_dir is None and is_given:
                raise ValueError(f"{name} needs --data-dir, where files and models are kept")

    @contextlib.contextmanager
    def opened(self, max_rank: int) -> Iterator[Stores | None]:
        """Files and jobs, None without a data-dir: before the weights are read, and any thread.

        Raises:
          ValueError: another server has the data-dir, it or the database can't be used, or the two
            do not belong together.
        """
        if self.data_dir is None:
            yield None
            return
        from flaxen.server.fine_tuning_config import FineTuningConfig
        from flaxen.server.fine_tuning_stores import open_stores

        config = FineTuningConfig(
            data_dir=self.data_dir,
            database_url=self.database_url,
            max_file_bytes=self.max_file_bytes,
            max_total_bytes=self.max_total_bytes,
            max_lora_rank=max_rank,
        )
        with open_stores(config) as stores:
            yield stores

    @contextlib.contextmanager
    def running(
        self,
        stores: Stores | None,
        app: FastAPI,
        config: ServerConfig,
        engine: EngineClient,
        parts: Parts,
    ) -> Iterator[None]:
        """Adds the routes to an application, and runs jobs while inside; without stores nothing."""
        if stores is None:
            yield
            return
        from flaxen.server.fine_tuned_models import FineTunedModels
        from flaxen.server.fine_tuning_app import add_fine_tuning
        from flaxen.server.fine_tuning_context import FineTuning
        from flaxen.server.fine_tuning_worker import Worker

        trainer = EngineTrainer(
            engine,
            _base_of(parts),
            stores.jobs_directory,
            share=self.share,
            max_rank=stores.config.max_lora_rank,
        )
        models = FineTunedModels(stores.jobs, trainer)
        models.take_up()
        with Worker(
            stores.jobs, stores.files, trainer, is_closing=lambda: _is_closing(engine)
        ) as worker:
            context = FineTuning(
                config=stores.config,
                files=stores.files,
                jobs=stores.jobs,
                models=models,
                base_models=config.served_model_names or (engine.info.name,),
                on_change=worker.wake,
            )
            add_fine_tuning(app, context, config)
            yield


def _is_closing(engine: EngineClient) -> bool:
    from flaxen.protocol import EngineClosedError

    try:
        engine.check_health()
    except EngineClosedError:  # from the beginning of a drain
        return True
    return False


def _base_of(parts: Parts) -> Base:
    """What jobs adapt: the very arrays that are served."""
    from flaxen.train.jobs_spec import Base

    return Base(
        model=parts.model,
        params=parts.params,
        tokenizer=parts.tokenizer,
        name=parts.info.name,
        max_length=min(parts.info.max_model_len, _MAX_LENGTH),
    )


class EngineTrainer:
    """The server's Trainer: trains on an engine's own weights, and has it serve the result."""

    def __init__(
        self, engine: EngineClient, base: Base, directory: Path, *, share: float, max_rank: int
    ) -> None:
        from flaxen.train.jobs_pace import Pace

        self._engine, self._base = engine, base
        self._directory, self._max_rank = directory, max_rank
        self._pace = Pace(share=share, is_busy=self._is_busy)

    def validate(
        self, path: Path, method: str, should_stop: Callable[[], bool]
    ) -> Sequence[tuple[int, str]] | None:
        """What is wrong with a file; None if it was told to stop before."""
        from flaxen.data.corpus import StoppedError
        from flaxen.data.validate import Method, validate_file

        try:
            return validate_file(path, cast(Method, method), should_stop=should_stop).errors
        except StoppedError:
            return None

    def train(self, job: TrainingJob, progress: Progress) -> bool:
        """Trains, or goes on. Returns whether it got to the end."""
        from flaxen.models.adapters import LoraConfig, lora_targets
        from flaxen.train.jobs import run_job
        from flaxen.train.jobs_plan import JobMethod, Wishes
        from flaxen.train.jobs_spec import JobCalls, JobSpec

        spec = JobSpec(
            method=cast(JobMethod, job.method),
            training_file=job.training_file,
            validation_file=job.validation_file,
            wishes=Wishes(
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
        calls = JobCalls(
            on_start=progress.started,
            on_step=progress.stepped,
            on_checkpoint=progress.checkpointed,
            should_stop=progress.should_stop,
            rest=lambda worked_s: self._pace.rest(worked_s, progress.should_stop),
        )
        return run_job(spec, self._base, calls)

    def serve(self, model: FineTunedModel) -> None:
        """Has a job's adapter served, which is read when a request first names it.

        Raises:
          ValueError: it is not there, or of a larger rank than the server takes.
        """
        from flaxen.protocol import AdapterSource
        from flaxen.weights.peft import load_adapter

        path = self._adapter(model)
        if not path.is_dir():
            raise ValueError(f"{path} is not there")
        if model.rank > self._max_rank:
            raise ValueError(f"its rank is {model.rank}: start with --max-lora-rank {model.rank}")
        read = functools.partial(load_adapter, path, self._base.model, max_rank=self._max_rank)
        source = AdapterSource(rank=model.rank, created=model.created, read=read)
        self._engine.register_adapter(model.name, source)

    def unload(self, name: str) -> None:
        """Lets go of an adapter's weights in memory."""
        with contextlib.suppress(ValueError):  # it is not served
            self._engine.unload_adapter(name)

    def remove(self, model: FineTunedModel) -> None:
        """Ends the serving of an adapter, and removes its files, but nothing else beside them."""
        from flaxen.weights.peft import CONFIG, WEIGHTS

        with contextlib.suppress(ValueError):  # it is not served
            self._engine.remove_adapter(model.name)
        path = self._adapter(model)
        for name in (CONFIG, WEIGHTS):
            (path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it holds something else, or is gone
            path.rmdir()

    def _adapter(self, model: FineTunedModel) -> Path:
        from flaxen.train.jobs_spec import adapter_directory

        return adapter_directory(self._directory / model.job_id, model.step)

    def forget(self, job_id: str) -> None:
        """Removes what is needed only to go on with a job."""
        from flaxen.train.jobs_spec import state_directory

        shutil.rmtree(state_directory(self._directory / job_id), ignore_errors=True)

    def _is_busy(self) -> bool:
        stats = self._engine.stats()
        return stats.num_running + stats.num_waiting > 0
