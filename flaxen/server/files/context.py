"""The parts that the routes of files work with. Deliberately does nothing itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from flaxen.server.files.config import FilesConfig
from flaxen.server.files.store import FileStore


@dataclass(frozen=True, kw_only=True)
class Files:
    """One server's files, and who needs them."""

    config: FilesConfig
    store: FileStore
    job_that_needs: Callable[[str], str | None]  # the id of an active job, by that of a file
    # Held while a file is deleted, and while a job is made: no job may lose its file in between.
    changing: asyncio.Lock
