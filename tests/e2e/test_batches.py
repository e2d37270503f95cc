"""A batch on a real server of a tiny model, which is killed in the middle of it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.serving import Server, serve
from tests.e2e.tiny_model import write_tiny_model

pytestmark = pytest.mark.slow

MODEL = "tiny"
NUM_LINES = 30


def start(cache: Path, model: Path, directory: Path) -> Any:
    return serve(
        cache, directory / f"log-{time.monotonic_ns()}",
        "--served-model-name", MODEL, "--dtype", "float32", "--max-num-seqs", "4",
        "--data-dir", str(directory / "data"), path=str(model), model=MODEL,
    )  # fmt: skip


def line(number: int) -> str:
    body = {"prompt": f"Number {number}", "max_tokens": 100, "temperature": 0, "ignore_eos": True}
    fields = {"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": body}
    return json.dumps(fields) + "\n"


def until(server: Server, batch_id: str, num_answered: int) -> Any:
    deadline_s = time.monotonic() + 120
    while True:
        batch = server.openai.batches.retrieve(batch_id)
        if batch.request_counts.completed >= num_answered and (
            num_answered < NUM_LINES or batch.status == "completed"
        ):
            return batch
        assert batch.status in ("validating", "in_progress", "finalizing"), batch
        assert time.monotonic() < deadline_s, batch
        time.sleep(0.02)


def test_a_killed_server_goes_on_with_its_batch(compile_cache: Path, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    with start(compile_cache, model, tmp_path) as server:
        file = server.openai.files.create(
            file=("in.jsonl", "".join(map(line, range(NUM_LINES))).encode()), purpose="batch"
        )
        batch = server.openai.batches.create(
            input_file_id=file.id, endpoint="/v1/completions", completion_window="24h"
        )
        killed = until(server, batch.id, 5)
        server.process.kill()
        server.process.wait()
    assert killed.status == "in_progress"
    with start(compile_cache, model, tmp_path) as server:
        done = until(server, batch.id, NUM_LINES)
        assert done.error_file_id is None
        results = server.openai.files.content(done.output_file_id).text.splitlines()
        read = [json.loads(each) for each in results]
        assert [each["custom_id"] for each in read] == [str(i) for i in range(NUM_LINES)]
        texts = [each["response"]["body"]["choices"][0]["text"] for each in read]
        own = server.complete("Number 0", max_tokens=100, ignore_eos=True)
        assert texts[0] == own.choices[0].text
