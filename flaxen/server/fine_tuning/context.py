"""The parts that the routes of files and jobs work with. Deliberately does nothing itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from flaxen.server.body import body_lane
from flaxen.server.files.store import FileStore
from flaxen.server.fine_tuning.config import FineTuningConfig
from flaxen.server.fine_tuning.models import FineTunedModels
from flaxen.server.fine_tuning.store import JobStore
from flaxen.server.lanes import Lane


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """One server's files and jobs."""

    config: FineTuningConfig
    files: FileStore
    jobs: JobStore
    models: FineTunedModels
    base_models: tuple[str, ...]  # names of the model that jobs may adapt
    on_change: Callable[[], None]  # called after a job was made, or got another status
    bodies: Lane = field(default_factory=body_lane)
    # Held while a job is made and while a file is deleted: no job may lose its file in between.
    changing_files: asyncio.Lock = field(default_factory=asyncio.Lock)
