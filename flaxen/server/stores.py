"""Opens what a server keeps: the data directory, its database, and the stores over both.

Deliberately does not know routes, nor who trains.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from flaxen.server.files.config import FilesConfig
from flaxen.server.files.store import FileStore
from flaxen.server.fine_tuning.config import FineTuningConfig
from flaxen.server.fine_tuning.job_store import JobStore
from flaxen.server.storage.directory import bind, lock_directory
from flaxen.server.storage.tables import open_database


@dataclass(frozen=True, kw_only=True)
class StoresConfig:
    """Where a server keeps its files and jobs, and how many."""

    data_dir: Path  # of this server alone
    database_url: str | None = None  # SQLAlchemy's; None: SQLite in data_dir
    files: FilesConfig = field(default_factory=FilesConfig)
    fine_tuning: FineTuningConfig = field(default_factory=FineTuningConfig)


@dataclass(frozen=True, kw_only=True)
class Stores:
    """One server's files and jobs."""

    config: StoresConfig
    database: sa.Engine
    files: FileStore
    jobs: JobStore

    @property
    def jobs_directory(self) -> Path:
        """Where each job has a directory of its own."""
        return self.config.data_dir / "jobs"


@contextlib.contextmanager
def open_stores(config: StoresConfig) -> Iterator[Stores]:
    """The stores, and the data directory locked for as long as they are used.

    Raises:
      ValueError: another server has the data directory, it or the database can't be used, or the
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
        yield Stores(config=config, database=database, files=files, jobs=JobStore(database))
