"""The parts that the batch routes use. Contains no logic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from flaxen.job_routes.batches.batch_store import BatchStore
from flaxen.job_routes.batches.config import BatchesConfig
from flaxen.job_routes.files.store import FileStore
from flaxen.server.body import body_lane
from flaxen.server.lanes import Lane


@dataclass(frozen=True, kw_only=True)
class Batches:
    """One server's batches."""

    config: BatchesConfig
    store: BatchStore
    files: FileStore
    endpoints: tuple[str, ...]  # the routes that a batch may ask
    on_change: Callable[[], None]  # called after a batch was created or cancelled
    # Held while a batch is created and a file deleted, so that no new batch loses its file.
    changing_files: asyncio.Lock
    bodies: Lane = field(default_factory=body_lane)
