"""What streaming clients notice of a fine-tuning job: the time between their tokens beside it.

One server, whose clients stream all the while: a window without a job, one beside a running job,
one without again. Prints a table and ends with one JSON line. Bounded: about five minutes.

    python benchmarks/fine_tuning_latency.py [--model smollm2-135m] [--share 0.2] [--write]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import openai
from report import report

_READY = re.compile(r"is served on (http://\S+)")
_START_S = 300
_PROMPT = "Tell a long story about the sea and number {}."
_RECORD = {
    "messages": [
        {"role": "user", "content": "Which animal is number {}? Answer in one sentence, please."},
        {"role": "assistant", "content": "Number {} is the quick brown fox, and it is not lazy."},
    ]
}
_NUM_RECORDS = 400  # times 50 epochs: far more than fit into the measured time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--window-s", type=float, default=90.0)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    with _serve(args.model, args.share) as url:
        figures = asyncio.run(_measure(url, args))
    figures = {"clients": args.clients, "share": args.share, **figures}
    print(f"{'':18}{'idle':>10}{'training':>10}{'ratio':>8}")
    for name in ("p50", "p99"):
        idle, training = (figures[f"{kind}_{name}_ms"] for kind in ("idle", "training"))
        print(f"{name + ' between, ms':18}{idle:10.1f}{training:10.1f}{training / idle:8.2f}")
    report("fine_tuning_latency", figures, write=args.write)


async def _measure(url: str, args: argparse.Namespace) -> dict[str, float]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        (model,) = [each.id async for each in client.models.list()]
        gaps: dict[str, list[float]] = {"idle": [], "training": []}
        data = "".join(
            json.dumps(_RECORD).replace("{}", str(i)) + "\n" for i in range(_NUM_RECORDS)
        )
        file = await client.files.create(file=("records.jsonl", data.encode()), purpose="fine-tune")
        async with _streaming(client, model, args.clients) as seen:
            await asyncio.sleep(5)  # the clients' shapes are compiled by then
            gaps["idle"] += await _window(seen, args.window_s / 2)
            job = await client.fine_tuning.jobs.create(
                model=model,
                training_file=file.id,
                hyperparameters={"n_epochs": 50, "batch_size": 4},  # a row a step, of 256 tokens
            )
            await _wait_for_step(client, job.id, 2)  # the training step is compiled by now
            before, begin_s = await _last_step(client, job.id), time.monotonic()
            gaps["training"] += await _window(seen, args.window_s)
            steps = await _last_step(client, job.id) - before
            if not steps:
                raise RuntimeError(f"no step was made within {args.window_s} s: nothing was beside")
            figures = {"steps_per_minute": 60 * steps / (time.monotonic() - begin_s)}
            await client.fine_tuning.jobs.cancel(job.id)
            await asyncio.sleep(5)  # the microbatch that runs comes to its end
            gaps["idle"] += await _window(seen, args.window_s / 2)
    for kind, values in gaps.items():
        for percent in (50, 99):
            figures[f"{kind}_p{percent}_ms"] = 1e3 * float(np.percentile(values, percent))
        figures[f"{kind}_max_ms"] = 1e3 * max(values)
        figures[f"{kind}_tokens"] = len(values)
    figures["p99_ratio"] = figures["training_p99_ms"] / figures["idle_p99_ms"]
    return figures


async def _window(seen: list[float], seconds: float) -> list[float]:
    """The times between tokens over the next seconds."""
    seen.clear()
    await asyncio.sleep(seconds)
    return list(seen)


@contextlib.asynccontextmanager
async def _streaming(
    client: openai.AsyncOpenAI, model: str, num_clients: int
) -> AsyncIterator[list[float]]:
    """Runs clients that stream one answer after the other. Yields the list that gets their times
    between tokens, in seconds.
    """
    gaps: list[float] = []

    async def stream(number: int) -> None:
        while True:
            chunks = await client.completions.create(
                model=model,
                prompt=_PROMPT.format(number),
                max_tokens=200,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            last_s = None
            async for _ in chunks:
                now_s = time.perf_counter()
                if last_s is not None:
                    gaps.append(now_s - last_s)
                last_s = now_s

    tasks = [asyncio.create_task(stream(number)) for number in range(num_clients)]
    try:
        yield gaps
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _last_step(client: openai.AsyncOpenAI, job_id: str) -> int:
    page = await client.fine_tuning.jobs.list_events(job_id, limit=20)
    steps = [event.data["step"] for event in page.data if event.type == "metrics"]  # type: ignore[index]
    return max(steps, default=0)


async def _wait_for_step(client: openai.AsyncOpenAI, job_id: str, step: int) -> None:
    deadline_s = time.monotonic() + _START_S
    while await _last_step(client, job_id) < step:
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"the job {job_id} does not come to step {step}")
        await asyncio.sleep(0.2)


@contextlib.contextmanager
def _serve(model: str, share: float) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory:
        log_file = Path(directory) / "log"
        command = [
            sys.executable, "-m", "flaxen", "serve", model, "--port", "0",
            "--max-num-seqs", "8", "--data-dir", f"{directory}/data",
            "--fine-tuning-share", str(share),
        ]  # fmt: skip
        with log_file.open("wb") as log:
            process = subprocess.Popen(command, stderr=log)
        try:
            deadline_s = time.monotonic() + _START_S
            while (ready := _READY.search(log_file.read_text())) is None:
                if process.poll() is not None or time.monotonic() > deadline_s:
                    raise RuntimeError(f"the server did not start:\n{log_file.read_text()}")
                time.sleep(0.1)
            yield ready[1]
        finally:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
