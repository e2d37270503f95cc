"""The CPU time of the server's log: a burst of requests with a line for each, and with none.

    python benchmarks/request_log.py

The engine is the tests' fake, so that the server's own work is all that is measured: a real model
takes hundreds of times as long. Levels alternate, because a machine's speed drifts.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from flaxen.protocol import FinishReason
from flaxen.server.request_log import GenerationLog, RequestLog, Timing
from flaxen.server.usage import Usage
from flaxen.serving.logs import LogFormat, logging_to
from tests.server.clients import http_client, make_app

_NUM_REQUESTS = 1000
_NUM_TURNS = 7
_NUM_LINES = 5000  # fewer than may wait, so that none is dropped
_BODY = {"prompt": "a", "max_tokens": 16}


def _lines() -> tuple[float, float]:
    """Returns the CPU seconds of a line, and those of them on the thread that logs."""
    timing = Timing(first_s=time.monotonic(), num_after_first=15, reasons=[FinishReason.STOP])
    timing.last_s = time.monotonic() + 1
    log = RequestLog(method="POST", path="/v1/completions", status=200)
    log.generation = GenerationLog(
        model="model",
        adapter=None,
        stream=True,
        num_prompts=1,
        n=1,
        usage=Usage(num_prompt=30),
        timing=timing,
    )
    cpu_s = time.process_time()
    with Path("/dev/null").open("w") as stream, logging_to(stream, LogFormat.TEXT, "info"):
        own_s = time.thread_time()
        for _ in range(_NUM_LINES):
            log.write("6942893b0a684c488e5442436c0f0ad0")
        own_s = time.thread_time() - own_s
    return (time.process_time() - cpu_s) / _NUM_LINES, own_s / _NUM_LINES


async def _burst() -> tuple[float, float]:
    """Returns the CPU seconds of the process, and the seconds until all were answered."""
    async with http_client(make_app()) as client:
        cpu_s, start_s = time.process_time(), time.perf_counter()

        async def ask() -> httpx.Response:
            return await client.post("/v1/completions", json=_BODY)

        answers = await asyncio.gather(*(ask() for _ in range(_NUM_REQUESTS)))
        assert {answer.status_code for answer in answers} == {200}
        return time.process_time() - cpu_s, time.perf_counter() - start_s


def main() -> None:
    """Prints the medians."""
    times: dict[str, list[tuple[float, float]]] = {"warning": [], "text": [], "json": []}
    for _ in range(_NUM_TURNS):
        for name, found in times.items():
            level = "warning" if name == "warning" else "info"
            log_format = LogFormat.JSON if name == "json" else LogFormat.TEXT
            with Path("/dev/null").open("w") as stream, logging_to(stream, log_format, level):
                found.append(asyncio.run(_burst()))
    print(f"{_NUM_REQUESTS} requests of {_BODY['max_tokens']} tokens, medians of {_NUM_TURNS}")
    for name, found in times.items():
        cpu_s, wall_s = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"{name:8} {cpu_s:.3f} s of CPU, {wall_s:.3f} s until all were answered")
    lines = [_lines() for _ in range(_NUM_TURNS)]
    line_s, own_s = (statistics.median(each) for each in zip(*lines, strict=True))
    print(f"a line: {line_s * 1e6:.0f} us of CPU, {own_s * 1e6:.0f} of them on the event loop")


if __name__ == "__main__":
    main()
