"""What `flaxen run-batch` does: answers a file of requests through an application that nothing
listens for.

Deliberately does not know options.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flaxen.engine.async_engine import AsyncEngine
from flaxen.job_routes.batches.asking import Asking
from flaxen.job_routes.batches.batch_lines import (
    ENDPOINTS,
    Answered,
    BatchRequest,
    LineError,
    read_lines,
    read_request,
    result_line,
)
from flaxen.responses_routes.responses import Responses
from flaxen.server.app import create_app
from flaxen.server.config import ServerConfig
from flaxen.serving.more_routes import more_routes

if TYPE_CHECKING:
    from flaxen.build import Parts

_URLS = (*ENDPOINTS, "/v1/score", "/v1/rerank")
_AT_ONCE = 256  # requests that the engine has or that wait for it

Result = tuple[BatchRequest, Answered]


def read_requests(path: Path) -> list[BatchRequest]:
    """Reads a file of requests.

    Raises:
      ValueError: a line is not a request.
      OSError: the file can't be read.
    """
    found = []
    for number, line in read_lines(path):
        try:
            found.append(read_request(line, _URLS))
        except LineError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    if not found:
        raise ValueError(f"{path} has no requests: give a file with one on each line")
    return found


async def answer_all(parts: Parts, requests: Sequence[BatchRequest]) -> list[Result]:
    """Answers the requests, many at once. Returns the results in the same order.

    Args:
      parts: of the engine.
      requests: to the routes of a server.

    Raises:
      EngineClosedError: the engine broke.
    """
    config = ServerConfig(request_timeout_s=None)
    with AsyncEngine(parts.engine) as engine:
        routes = more_routes(Responses())
        app = create_app(engine, parts.tokenizer, config, more_routes=routes)
        asking = Asking(app, config, check=engine.check_health)
        turns = asyncio.Semaphore(_AT_ONCE)

        async def answer(request: BatchRequest) -> Result:
            async with turns:
                return request, await asking.ask(request)

        answers = [asyncio.ensure_future(answer(request)) for request in requests]
        try:
            return await asyncio.gather(*answers)
        finally:
            for each in answers:
                each.cancel()
            await asyncio.gather(*answers, return_exceptions=True)
            await engine.close()


def write_results(path: Path, results: Sequence[Result]) -> int:
    """Writes a line for each result, all or none. Returns how many are errors.

    Raises:
      OSError: the file can't be written.
    """
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        for request, answered in results:
            file.write(result_line(request.custom_id, answered) + "\n")
    os.replace(part, path)
    return sum(answered.status != 200 for _, answered in results)
