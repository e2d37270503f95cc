"""Runs an application until a signal. Imports the web framework only when it is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from flaxen.serving.router import Work
from flaxen.serving.server_args import ServerArgs

if TYPE_CHECKING:
    from fastapi import FastAPI

    from flaxen.job_routes.batches.batch_worker import BatchWorker
    from flaxen.server.run import Drained


def run_app(
    app: FastAPI,
    engine: Drained,
    server: ServerArgs,
    on_ready: Callable[[str], None],
    batches: BatchWorker | None,
    beside: Sequence[Work] = (),
) -> int:
    """Serves until a signal, and does what runs beside the requests, as answering batches; returns
    the exit code."""
    from flaxen.server.run import run

    works = [*beside, *(() if batches is None else (batches.run,))]

    async def work() -> None:
        await asyncio.gather(*(each() for each in works))

    return run(
        app,
        engine,
        host=server.host,
        port=server.port,
        uds=server.uds,
        drain_s=server.config.drain_s,
        on_ready=on_ready,
        beside=work if works else None,
    )
