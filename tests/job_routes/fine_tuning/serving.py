"""A server with fine-tuning over a trainer that is computable by hand."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from flaxen.job_routes.files.config import FilesConfig
from flaxen.job_routes.files.store import FileStore
from flaxen.job_routes.fine_tuning.config import FineTuningConfig
from flaxen.job_routes.fine_tuning.job_store import JobStore
from flaxen.job_routes.fine_tuning.job_worker import JobWorker
from flaxen.job_routes.fine_tuning.trainer import FineTunedModel, JobProgress, TrainingJob
from flaxen.job_routes.fine_tuning.tuned_models import FineTunedModels
from flaxen.job_routes.mount import mount_jobs
from flaxen.job_routes.stores import StoresConfig, open_stores
from flaxen.models.adapters import LoraConfig
from flaxen.protocol import AdapterSource, EngineClient
from flaxen.server.app import create_app
from flaxen.server.config import ServerConfig
from flaxen.weights.adapters.adapter import Adapter
from tests.server.fakes import FakeEngine, byte_tokenizer

MODEL = "fake/model"
GOOD = b'{"text": "one"}\n{"text": "two"}\n'


class FakeTrainer:
    """Step k of three has the loss 1/k. A line that says "bad" is wrong. A job may be held."""

    def __init__(self) -> None:
        self.jobs: list[TrainingJob] = []
        self.served: list[tuple[str, int, str]] = []
        self.removed: list[tuple[str, int, str]] = []
        self.num_reads: Counter[str] = Counter()  # of each model
        self.engine: EngineClient | None = None  # that serves what comes of jobs
        self.forgotten: list[str] = []
        self.may_step = threading.Event()
        self.may_step.set()
        self.may_validate = threading.Event()
        self.may_validate.set()
        self.raises: Exception | None = None
        self.remove_raises: Exception | None = None
        self.steps: dict[str, int] = {}  # made of each job, as its saved state would say

    def validate(
        self, path: Path, method: str, should_stop: Callable[[], bool]
    ) -> Sequence[tuple[int, str]] | None:
        while not self.may_validate.wait(0.005):
            if should_stop():
                return None
        lines = path.read_bytes().splitlines()
        return [(i + 1, f"not {method}") for i, line in enumerate(lines) if b"bad" in line]

    def train(self, job: TrainingJob, progress: JobProgress) -> bool:
        self.jobs.append(job)
        if self.raises is not None:
            raise self.raises
        progress.started({"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.0})
        for step in range(self.steps.get(job.id, 0) + 1, 4):
            while not self.may_step.wait(0.005):
                if progress.should_stop():
                    return False
            if progress.should_stop():
                return False
            progress.stepped(step, 3, {"train_loss": 1 / step}, 10 * step)
            self.steps[job.id] = step
        progress.checkpointed(2, {"train_loss": 1 / 2}, False)
        progress.checkpointed(3, {"train_loss": 1 / 3}, True)
        return True

    def serve(self, model: FineTunedModel) -> None:
        self.served.append((model.job_id, model.step, model.name))
        if self.engine is not None:
            source = AdapterSource(
                rank=model.rank,
                created=model.created,
                read=lambda: self.read(model.name, model.rank),
            )
            self.engine.register_adapter(model.name, source)

    def read(self, name: str, rank: int) -> Adapter:
        self.num_reads[name] += 1
        return Adapter(config=LoraConfig(rank=rank), layers=())

    def unload(self, name: str) -> None:
        assert self.engine is not None
        self.engine.unload_adapter(name)

    def remove(self, model: FineTunedModel) -> None:
        self.removed.append((model.job_id, model.step, model.name))
        if self.engine is not None:
            with suppress(ValueError):
                self.engine.remove_adapter(model.name)
        if self.remove_raises is not None:
            raise self.remove_raises

    def remove_state(self, job_id: str) -> None:
        self.forgotten.append(job_id)


@dataclass(kw_only=True)
class Served:
    """An application, and what is behind it."""

    app: Any
    trainer: FakeTrainer
    files: FileStore
    jobs: JobStore
    worker: JobWorker
    engine: FakeEngine
    directory: Path
    database: sa.Engine = field(repr=False)

    def wait_for(self, job_id: str, status: str) -> dict[str, Any]:
        deadline_s = time.monotonic() + 20
        while (row := self.jobs.get(job_id))["status"] != status:
            assert time.monotonic() < deadline_s, f"{row} does not become {status}"
            time.sleep(0.005)
        return row

    def messages(self, job_id: str) -> list[str]:
        """The messages of a job's events, newest first."""
        return [event["message"] for event in self.jobs.events(job_id, None, 100)[0]]

    def wait_for_event(self, job_id: str, words: str) -> None:
        deadline_s = time.monotonic() + 20
        while not any(words in message for message in self.messages(job_id)):
            assert time.monotonic() < deadline_s, f"no event of {job_id} has {words!r}"
            time.sleep(0.005)


def stores_config(
    directory: Path, *, database_url: str | None = None, **limits: Any
) -> StoresConfig:
    """With limits of files and of jobs."""
    of_jobs = {name: limits.pop(name) for name in ("max_active_jobs",) if name in limits}
    return StoresConfig(
        data_dir=directory,
        database_url=database_url,
        files=FilesConfig(**limits),
        fine_tuning=FineTuningConfig(**of_jobs),
    )


@contextmanager
def serving(
    directory: Path,
    trainer: FakeTrainer | None = None,
    api_keys: tuple[str, ...] = (),
    is_closing: Callable[[], bool] = lambda: False,
    **config: Any,
) -> Iterator[Served]:
    """An application whose worker runs."""
    settings = stores_config(directory, **config)
    trainer = trainer or FakeTrainer()
    server_config = ServerConfig(api_keys=api_keys)
    engine = trainer.engine = FakeEngine()
    app = create_app(engine, byte_tokenizer(), server_config)
    with (
        open_stores(settings) as stores,
        JobWorker(stores.jobs, stores.files, trainer, is_closing=is_closing) as worker,
    ):
        models = FineTunedModels(stores.jobs, trainer)
        models.serve_all()
        mount_jobs(
            app,
            server_config,
            stores,
            models,
            base_models=(MODEL,),
            on_change=worker.wake,
            on_batch=lambda: None,
        )
        yield Served(
            app=app,
            trainer=trainer,
            files=stores.files,
            jobs=stores.jobs,
            worker=worker,
            engine=engine,
            directory=directory,
            database=stores.database,
        )
