"""The parts that the job routes use. Contains no logic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from flaxen.job_routes.fine_tuning.config import FineTuningConfig
from flaxen.job_routes.fine_tuning.job_store import JobStore
from flaxen.job_routes.fine_tuning.training_files import TrainingFiles
from flaxen.job_routes.fine_tuning.tuned_models import FineTunedModels
from flaxen.server.body import body_lane
from flaxen.server.lanes import Lane


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """One server's jobs, and the models they made."""

    config: FineTuningConfig
    files: TrainingFiles
    jobs: JobStore
    models: FineTunedModels
    base_models: tuple[str, ...]  # the names of the model that jobs may adapt
    on_change: Callable[[], None]  # called after a job was created or changed its status
    # Held while a job is created and while a file is deleted, so that no new job loses its file.
    changing_files: asyncio.Lock
    bodies: Lane = field(default_factory=body_lane)
