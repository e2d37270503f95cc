"""The parts that the file routes use. Contains no logic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from flaxen.job_routes.files.config import FilesConfig
from flaxen.job_routes.files.store import FileStore


@dataclass(frozen=True, kw_only=True)
class Files:
    """One server's files, and the jobs that need them."""

    config: FilesConfig
    store: FileStore
    user_of: Callable[[str], str | None]  # file id -> what needs it and has not ended
    # Held while a file is deleted and while a job is created, so that no new job loses its file.
    changing: asyncio.Lock
