"""Fine-tuning through the official client, on a real server of a tiny model."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.serving import Server, serve
from tests.e2e.tiny_model import write_tiny_model

pytestmark = pytest.mark.slow

MODEL = "tiny"
QUESTION = [{"role": "user", "content": "Who are you?"}]
ANSWER = "A tiny model."
RECORD = {"messages": [*QUESTION, {"role": "assistant", "content": ANSWER}]}
LEARN = {"n_epochs": 40, "batch_size": 3, "learning_rate_multiplier": 75}
SOME = {**LEARN, "n_epochs": 15}
LONG = {**LEARN, "batch_size": 1}  # also on a fast machine not at its end when it is killed


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def start(cache: Path, model: Path, directory: Path, *options: str) -> Any:
    directory.mkdir(exist_ok=True)
    return serve(
        cache, directory / f"log-{time.monotonic_ns()}",
        "--served-model-name", MODEL, "--dtype", "float32", "--max-num-seqs", "4",
        "--data-dir", str(directory / "data"), *options,
        path=str(model), model=MODEL,
    )  # fmt: skip


def upload(server: Server, num_records: int = 9, record: Any = RECORD) -> str:
    data = (json.dumps(record) + "\n").encode() * num_records
    file = server.openai.files.create(file=("records.jsonl", data), purpose="fine-tune")
    return str(file.id)


def create(server: Server, numbers: dict[str, Any], **body: Any) -> Any:
    method = {"type": "supervised", "supervised": {"hyperparameters": numbers}}
    body = {"training_file": upload(server), "seed": 1, "method": method, **body}
    return server.openai.fine_tuning.jobs.create(model=MODEL, **body)


def wait_for(server: Server, job_id: str, *statuses: str) -> Any:
    deadline_s = time.monotonic() + 120
    while True:
        job = server.openai.fine_tuning.jobs.retrieve(job_id)
        if job.status in statuses:
            return job
        assert job.status not in ("failed", "cancelled", "succeeded"), job
        assert time.monotonic() < deadline_s, job
        time.sleep(0.05)


def wait_for_step(server: Server, job_id: str, step: int) -> None:
    deadline_s = time.monotonic() + 120
    while (
        server.openai.fine_tuning.jobs.list_events(job_id, limit=1).data[0].data.get("step", 0)
        < step
    ):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def answer(server: Server, name: str) -> str:
    (choice,) = server.chat(QUESTION, model=name, max_tokens=len(ANSWER) + 1).choices
    return str(choice.message.content)


def test_from_a_file_to_a_model_that_has_learnt(
    compile_cache: Path, model: Path, tmp_path: Path
) -> None:
    with start(compile_cache, model, tmp_path) as server:
        jobs = server.openai.fine_tuning.jobs
        before = answer(server, MODEL)
        assert before != ANSWER
        job = create(
            server, LEARN, suffix="mine", validation_file=upload(server, 2),
            extra_body={"lora": {"rank": 8, "alpha": 16}},
        )  # fmt: skip
        assert job.status in ("validating_files", "queued", "running")
        job = wait_for(server, job.id, "succeeded")
        name = job.fine_tuned_model
        assert name.startswith(f"ft:{MODEL}:mine:")
        assert job.trained_tokens > 0
        assert answer(server, name) == ANSWER
        assert answer(server, MODEL) == before
        assert name in [each.id for each in server.openai.models.list()]

        events = list(jobs.list_events(job.id))
        assert events[-1].message == f"Created fine-tuning job: {job.id}"
        assert events[0].message == "The job has successfully completed"
        losses = [event.data["train_loss"] for event in events if event.type == "metrics"]
        assert losses[0] < 0.5 < 1 < losses[-1]
        points = list(jobs.checkpoints.list(job.id))
        assert len(points) == 3
        assert points[0].fine_tuned_model_checkpoint == name
        assert points[0].metrics.full_valid_loss < 0.5
        assert answer(server, points[1].fine_tuned_model_checkpoint) == ANSWER

        wrong = create(server, LEARN, training_file=upload(server, 1, {"messages": []}))
        wait = time.monotonic() + 30
        while (found := jobs.retrieve(wrong.id)).status != "failed":
            assert time.monotonic() < wait
            time.sleep(0.05)
        assert found.error.code == "invalid_training_file"
        assert "line 1" in found.error.message

    # What was made is served again by the next server.
    with start(compile_cache, model, tmp_path) as server:
        assert answer(server, name) == ANSWER
        assert server.openai.fine_tuning.jobs.retrieve(job.id).fine_tuned_model == name
        adapter = tmp_path / "data" / "jobs" / job.id / f"adapter-{points[0].step_number}"
        assert adapter.is_dir()
        server.http.post("/v1/unload_lora_adapter", json={"lora_name": name}).raise_for_status()
        assert answer(server, name) == ANSWER  # read again
        assert server.openai.models.delete(name).deleted
        assert not adapter.exists()
        with pytest.raises(openai.NotFoundError, match="is not served here"):
            answer(server, name)

    # What was deleted is not. One adapter in memory serves two models in turn.
    room = ("--max-loras", "1", "--max-cpu-loras", "1")
    with start(compile_cache, model, tmp_path, *room) as server:
        rest = [point.fine_tuned_model_checkpoint for point in points[1:]]
        assert [each.id for each in server.openai.models.list()] == [MODEL, *reversed(rest)]
        for _ in range(2):
            for each in rest:
                answer(server, each)
        assert answer(server, rest[0]) == ANSWER
        assert server.openai.fine_tuning.jobs.retrieve(job.id).fine_tuned_model == name
        again = create(server, {**LEARN, "n_epochs": 1})  # its room in memory is taken
        assert wait_for(server, again.id, "succeeded").fine_tuned_model


def test_dpo_prefers_what_it_was_shown(compile_cache: Path, model: Path, tmp_path: Path) -> None:
    pair = {
        "input": {"messages": QUESTION},
        "preferred_output": [{"role": "assistant", "content": ANSWER}],
        "non_preferred_output": [{"role": "assistant", "content": "None of your business."}],
    }
    numbers = {"n_epochs": 10, "batch_size": 1, "learning_rate_multiplier": 500, "beta": 0.5}
    method = {"type": "dpo", "dpo": {"hyperparameters": numbers}}
    with start(compile_cache, model, tmp_path) as server:
        job = create(server, {}, training_file=upload(server, 2, pair), method=method)
        done = wait_for(server, job.id, "succeeded")
        assert done.method.dpo.hyperparameters.beta == 0.5
        found = [event.data for event in server.openai.fine_tuning.jobs.list_events(job.id)]
        steps = [data for data in reversed(found) if "train_loss" in data]
        assert abs(steps[0]["train_loss"] - 0.6931) < 1e-3  # log 2: it is the reference still
        assert steps[-1]["train_loss"] < 0.1
        assert steps[-1]["train_preference_accuracy"] == 1
        assert answer(server, done.fine_tuned_model)
        wrong = create(server, {}, method=method)  # its records are no pairs
        wait = time.monotonic() + 30
        while (failed := server.openai.fine_tuning.jobs.retrieve(wrong.id)).status != "failed":
            assert time.monotonic() < wait
            time.sleep(0.05)
        assert "line 1: " in failed.error.message


def test_pause_resume_and_cancel(compile_cache: Path, model: Path, tmp_path: Path) -> None:
    with start(compile_cache, model, tmp_path) as server:
        jobs = server.openai.fine_tuning.jobs
        job = create(server, SOME)
        other = create(server, LEARN)
        wait_for_step(server, job.id, 2)
        assert jobs.pause(job.id).status == "paused"
        wait_for(server, other.id, "running")
        wait_for_step(server, other.id, 1)
        assert jobs.cancel(other.id).status == "cancelled"
        assert jobs.resume(job.id).status == "queued"
        done = wait_for(server, job.id, "succeeded")
        assert answer(server, done.fine_tuned_model)
        assert jobs.retrieve(other.id).fine_tuned_model is None
        steps = [event.data["step"] for event in jobs.list_events(job.id) if "step" in event.data]
        assert steps == sorted(set(steps), reverse=True)
        with pytest.raises(openai.NotFoundError, match="is not served here"):
            answer(server, f"ft:{MODEL}::{other.id[-8:]}")


def test_a_job_that_plans_is_cancelled_and_left_at_once(
    compile_cache: Path, model: Path, tmp_path: Path
) -> None:
    with start(compile_cache, model, tmp_path) as server:
        jobs = server.openai.fine_tuning.jobs
        many = upload(server, 60_000)  # half a minute of rendering and more
        first, second = (create(server, SOME, training_file=many) for _ in range(2))
        wait_for(server, first.id, "running")
        wait_for(server, second.id, "queued", "running")
        begin_s = time.monotonic()
        assert jobs.cancel(first.id).status == "cancelled"
        wait_for(server, second.id, "running")
        assert time.monotonic() - begin_s < 10
        time.sleep(1)  # it plans
        begin_s = time.monotonic()
        server.process.terminate()
        assert server.process.wait(timeout=60) == 0
        assert time.monotonic() - begin_s < 10
    with start(compile_cache, model, tmp_path) as server:
        assert server.openai.fine_tuning.jobs.retrieve(second.id).status == "running"
        server.openai.fine_tuning.jobs.cancel(second.id)


def test_a_killed_server_goes_on_with_its_job_to_the_same_model(
    compile_cache: Path, model: Path, tmp_path: Path
) -> None:
    with start(compile_cache, model, tmp_path / "whole") as server:
        whole = wait_for(server, create(server, LONG).id, "succeeded")
        losses = _losses(server, whole.id)
    job_id = None
    for stop_at in (2, len(losses) // 2):
        with start(compile_cache, model, tmp_path / "killed") as server:
            job_id = job_id or create(server, LONG).id
            wait_for_step(server, job_id, stop_at)
            assert len(_losses(server, job_id)) < len(losses)
            server.process.kill()
            server.process.wait()
    with start(compile_cache, model, tmp_path / "killed") as server:
        job = wait_for(server, job_id or "", "succeeded")
        assert _losses(server, job.id) == losses
        assert job.trained_tokens == whole.trained_tokens
        assert answer(server, job.fine_tuned_model)
    adapters = [
        next((tmp_path / part / "data" / "jobs" / each.id).glob(f"adapter-{len(losses)}"))
        for part, each in (("whole", whole), ("killed", job))
    ]
    one, two = [(path / "adapter_model.safetensors").read_bytes() for path in adapters]
    assert one == two


def _losses(server: Server, job_id: str) -> list[float]:
    events = list(server.openai.fine_tuning.jobs.list_events(job_id))[::-1]
    return [event.data["train_loss"] for event in events if event.type == "metrics"]
