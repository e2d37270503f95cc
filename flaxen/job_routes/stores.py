"""Opens the data directory, its database, and the stores of files, jobs and batches.

Deliberately does not know routes or training.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from flaxen.job_routes.batches.batch_store import BatchStore
from flaxen.job_routes.batches.config import BatchesConfig
from flaxen.job_routes.files.config import FilesConfig
from flaxen.job_routes.files.store import FileStore
from flaxen.job_routes.fine_tuning.config import FineTuningConfig
from flaxen.job_routes.fine_tuning.job_store import JobStore
from flaxen.job_routes.storage.directory import bind, lock_directory
from flaxen.job_routes.storage.tables import open_database


@dataclass(frozen=True, kw_only=True)
class StoresConfig:
    """The places of a server's files and jobs, and their limits."""

    data_dir: Path  # used by this server only
    database_url: str | None = None  # SQLAlchemy's URL; None is SQLite in data_dir
    files: FilesConfig = field(default_factory=FilesConfig)
    fine_tuning: FineTuningConfig = field(default_factory=FineTuningConfig)
    batches: BatchesConfig = field(default_factory=BatchesConfig)


@dataclass(frozen=True, kw_only=True)
class Stores:
    """The stores of one server's files and jobs."""

    config: StoresConfig
    database: sa.Engine
    files: FileStore
    jobs: JobStore
    batches: BatchStore

    @property
    def jobs_directory(self) -> Path:
        """The directory with one directory for each job."""
        return self.config.data_dir / "jobs"


@contextlib.contextmanager
def open_stores(config: StoresConfig) -> Iterator[Stores]:
    """Opens the stores, and locks the data directory while they are in use.

    Raises:
      ValueError: another server uses the data directory, it or the database can't be used, or the
          two do not belong together.
    """
    directory = config.data_dir
    with contextlib.ExitStack() as closing:
        closing.callback(os.close, lock_directory(directory))
        database = open_database(config.database_url, directory)
        closing.callback(database.dispose)
        try:
            bind(directory, database)
            files = FileStore(
                database,
                directory / "files",
                max_file_bytes=config.files.max_file_bytes,
                max_total_bytes=config.files.max_total_bytes,
            )
        except OSError as error:
            raise ValueError(
                f"the data directory {directory} can't be used: {error}. Choose another "
                "--data-dir, one that this user may write"
            ) from error
        yield Stores(
            config=config,
            database=database,
            files=files,
            jobs=JobStore(database),
            batches=BatchStore(database),
        )
