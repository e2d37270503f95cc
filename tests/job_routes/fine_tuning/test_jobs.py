"""/v1/fine_tuning/jobs, as the official client calls it, over a trainer computable by hand."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.job_routes.fine_tuning.serving import GOOD, MODEL, Served, serving
from tests.server.clients import get, openai_client, post, run


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, max_active_jobs=3) as each:
        yield each


def add_file(served: Served, data: bytes = GOOD) -> str:
    with served.files.create() as writer:
        writer.write(data)
        return str(writer.commit("a.jsonl", "fine-tune")["id"])


def create(served: Served, **body: Any) -> Any:
    body = {"model": MODEL, "training_file": add_file(served), **body}
    return post(served.app, "/v1/fine_tuning/jobs", body)


def test_a_job_goes_from_its_files_to_a_model(served: Served) -> None:
    async def work() -> None:
        async with openai_client(served.app) as client:
            file = add_file(served)
            job = await client.fine_tuning.jobs.create(
                model=MODEL,
                training_file=file,
                validation_file=add_file(served),
                suffix="mine",
                seed=7,
                metadata={"a": "b"},
                method={
                    "type": "supervised",
                    "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}},
                },
                extra_body={"lora": {"rank": 4, "alpha": 8}},
            )
            assert (job.object, job.status, job.seed) == ("fine_tuning.job", "validating_files", 7)
            assert (job.fine_tuned_model, job.finished_at, job.error) == (None, None, None)
            assert job.hyperparameters.n_epochs == 2
            assert job.method.supervised.hyperparameters.batch_size == "auto"
            assert (job.integrations, job.result_files, job.metadata) == ([], [], {"a": "b"})
            served.wait_for(job.id, "succeeded")

            job = await client.fine_tuning.jobs.retrieve(job.id)
            assert job.fine_tuned_model == f"ft:{MODEL}:mine:{job.id[-8:]}"
            assert job.trained_tokens == 30
            assert job.finished_at >= job.created_at
            assert job.hyperparameters.n_epochs == 3  # as the trainer chose
            (asked,) = served.trainer.jobs
            assert (asked.n_epochs, asked.batch_size, asked.beta) == (2, None, None)
            assert (asked.lora_rank, asked.lora_alpha, asked.seed) == (4, 8, 7)
            assert asked.training_file.read_bytes() == GOOD

            events = [event async for event in client.fine_tuning.jobs.list_events(job.id, limit=2)]
            assert [event.message for event in reversed(events)] == [
                f"Created fine-tuning job: {job.id}",
                f"Validating training file: {file} and validation file: {job.validation_file}",
                "Files validated, moving job to queued state",
                "Fine-tuning job started",
                "Step 1/3: training loss=1.00",
                "Step 2/3: training loss=0.50",
                "Step 3/3: training loss=0.33",
                "Checkpoint created at step 2",
                "Checkpoint created at step 3",
                f"New fine-tuned model created: {job.fine_tuned_model}",
                "The job has successfully completed",
            ]
            assert {event.level for event in events} == {"info"}
            (step,) = [event for event in events if event.message.startswith("Step 2")]
            assert (step.type, step.object) == ("metrics", "fine_tuning.job.event")
            assert step.data == {"step": 2, "total_steps": 3, "train_loss": 0.5}

            last, first = [c async for c in client.fine_tuning.jobs.checkpoints.list(job.id)]
            assert (last.step_number, last.fine_tuned_model_checkpoint) == (3, job.fine_tuned_model)
            name = f"{job.fine_tuned_model}:ckpt-step-2"
            assert (first.fine_tuned_model_checkpoint, first.fine_tuning_job_id) == (name, job.id)
            assert first.metrics.train_loss == 0.5
            assert served.trainer.served == [(job.id, 2, name), (job.id, 3, job.fine_tuned_model)]

    run(work())


def test_jobs_are_listed_in_pages_newest_first(served: Served) -> None:
    ids = []
    for number in range(3):
        job_id = create(served, metadata={"n": str(number % 2)}).json()["id"]
        served.wait_for(job_id, "succeeded")
        ids.insert(0, job_id)

    async def work() -> None:
        async with openai_client(served.app) as client:
            page = await client.fine_tuning.jobs.list(limit=2)
            assert [job.id for job in page.data] == ids[:2]
            assert page.has_more
            assert [job.id async for job in client.fine_tuning.jobs.list(limit=1)] == ids
            even = client.fine_tuning.jobs.list(metadata={"n": "0"})
            assert [job.id async for job in even] == [ids[0], ids[2]]
            with pytest.raises(openai.NotFoundError, match="not the id of anything"):
                await client.fine_tuning.jobs.list(after="ftjob-none")

    run(work())
    assert get(served.app, "/v1/fine_tuning/jobs?metadata=null").json()["data"] == []


def test_dpo_and_the_older_place_of_hyperparameters(served: Served) -> None:
    numbers = {"n_epochs": 1, "learning_rate_multiplier": 2, "beta": 0.3}
    method = {"type": "dpo", "dpo": {"hyperparameters": numbers}}
    job = create(served, method=method).json()
    served.wait_for(job["id"], "succeeded")
    assert job["method"]["dpo"]["hyperparameters"] == {**numbers, "batch_size": "auto"}
    assert served.trainer.jobs[0].method == "dpo"
    assert served.trainer.jobs[0].beta == 0.3
    job = create(served, hyperparameters={"n_epochs": "auto", "batch_size": 2}).json()
    served.wait_for(job["id"], "succeeded")
    assert served.trainer.jobs[1].batch_size == 2
    assert job["fine_tuned_model"] is None


@pytest.mark.parametrize(
    ("body", "status", "param", "message"),
    [
        ({"model": "other"}, 404, "model", "can't be fine-tuned here: use fake/model"),
        ({"model": None}, 400, "model", "model must be a valid string"),
        ({"training_file": "file-none"}, 404, "training_file", "there is no file 'file-none'"),
        ({"validation_file": "../x"}, 404, "validation_file", "there is no file '../x'"),
        ({"suffix": "a:b"}, 400, "suffix", "suffix must be 1 to 64 letters"),
        ({"seed": -1}, 400, "seed", "seed must be from 0"),
        ({"integrations": [{"type": "wandb"}]}, 400, "integrations", "are not supported"),
        ({"method": {"type": "reinforcement"}}, 400, "method.type", "'supervised' or 'dpo'"),
        ({"method": {}}, 400, "method.type", "'supervised' or 'dpo'"),
        ({"method": {"type": "dpo", "supervised": {}}}, 400, "method.supervised", "not belong"),
        ({"method": {"type": "dpo", "dpo": 1}}, 400, "method.dpo", "must be an object"),
        ({"method": {"type": "dpo", "dpo": {"a": 1}}}, 400, "method.dpo.a", "unknown field"),
        ({"method": {"type": "dpo"}, "hyperparameters": {}}, 400, "hyperparameters", "into the me"),
        ({"hyperparameters": {"beta": 1}}, 400, "hyperparameters.beta", "unknown field"),
        ({"hyperparameters": {"n_epochs": 0}}, 400, "hyperparameters.n_epochs", "from 1 to 50"),
        ({"hyperparameters": {"n_epochs": True}}, 400, "hyperparameters.n_epochs", "whole number"),
        ({"hyperparameters": {"batch_size": 1.5}}, 400, "hyperparameters.batch_size", "whole"),
        (
            {"hyperparameters": {"learning_rate_multiplier": "x"}},
            400,
            "hyperparameters.learning_rate_multiplier",
            "or 'auto', got 'x'",
        ),
        ({"lora": {"rank": 65}}, 400, "lora.rank", "from 1 to 64, got 65"),
        ({"lora": {"alpha": 0}}, 400, "lora.alpha", "lora.alpha must be a number"),
        ({"lora": {"dropout": 0}}, 400, "lora.dropout", "unknown field"),
        ({"metadata": {"a": 1}}, 400, "metadata", "must map keys"),
        ({"metadata": {str(i): "" for i in range(17)}}, 400, "metadata", "at most 16 keys"),
        ({"temperature": 1}, 400, "temperature", "unknown field"),
    ],
)
def test_a_wrong_field_is_named(
    served: Served, body: dict[str, Any], status: int, param: str, message: str
) -> None:
    response = create(served, **body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param)
    assert message in error["message"]
    assert served.jobs.list() == ([], False)


def test_an_empty_file_is_refused(served: Served) -> None:
    response = create(served, training_file=add_file(served, b""))
    assert response.status_code == 400
    assert "is empty" in response.json()["error"]["message"]


def test_wrong_lines_fail_the_job_by_number(served: Served) -> None:
    job = create(served, training_file=add_file(served, b"good\nbad\ngood\nbad\n")).json()
    served.wait_for(job["id"], "failed")
    job = get(served.app, f"/v1/fine_tuning/jobs/{job['id']}").json()
    assert job["error"] == {
        "code": "invalid_training_file",
        "message": "The job failed due to an invalid training file. line 2: not supervised; "
        "line 4: not supervised",
        "param": "training_file",
    }
    assert job["finished_at"] is not None
    events = get(served.app, f"/v1/fine_tuning/jobs/{job['id']}/events").json()["data"]
    assert (events[0]["level"], events[0]["message"]) == ("error", job["error"]["message"])
    assert served.trainer.jobs == []


def test_a_failing_trainer_ends_its_job_alone(served: Served) -> None:
    served.trainer.raises = ValueError("the loss of step 3 is nan")
    first = create(served).json()
    assert served.wait_for(first["id"], "failed")["error"] == {
        "code": "training_failed",
        "message": "the loss of step 3 is nan",
        "param": None,
    }
    served.trainer.raises = RuntimeError("secret")
    second = create(served).json()
    failed = served.wait_for(second["id"], "failed")
    assert failed["error"]["code"] == "server_error"
    assert "secret" not in failed["error"]["message"]
    assert "create the job again" in failed["error"]["message"]
    served.trainer.raises = OSError(errno.ENOSPC, "no space")
    failed = served.wait_for(create(served).json()["id"], "failed")
    assert failed["error"]["code"] == "disk_full"
    assert "The server's disk is full. Delete files" in failed["error"]["message"]
    served.trainer.raises = None
    served.wait_for(create(served).json()["id"], "succeeded")


def test_an_error_names_a_file_by_its_id_and_not_its_path(served: Served) -> None:
    file_id = add_file(served)
    served.trainer.raises = ValueError(f"{served.files.path(file_id)}:3: too long")
    job = create(served, training_file=file_id).json()
    assert served.wait_for(job["id"], "failed")["error"]["message"] == f"{file_id}:3: too long"


def test_a_job_that_is_queued_in_the_meantime_is_paused(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.trainer.may_step.clear()
    job = create(served).json()["id"]
    served.wait_for(job, "running")
    change, before = served.jobs.change_status, iter([False])

    def change_later(*args: Any, **values: Any) -> bool:
        return next(before, True) and change(*args, **values)

    monkeypatch.setattr(served.jobs, "change_status", change_later)
    answer = post(served.app, f"/v1/fine_tuning/jobs/{job}/pause")
    assert (answer.status_code, answer.json()["status"]) == (200, "paused")
    served.trainer.may_step.set()


def test_a_job_pauses_resumes_and_is_cancelled(served: Served) -> None:
    served.trainer.may_step.clear()
    running = create(served).json()["id"]
    served.wait_for(running, "running")

    async def work() -> None:
        async with openai_client(served.app) as client:
            jobs = client.fine_tuning.jobs
            assert (await jobs.pause(running)).status == "paused"
            with pytest.raises(
                openai.BadRequestError, match="the job is paused: only a job that is"
            ):
                await jobs.pause(running)
            assert (await jobs.resume(running)).status == "queued"
            with pytest.raises(openai.BadRequestError, match="the job is"):
                await jobs.resume(running)
            served.wait_for(running, "running")
            other = await jobs.create(model=MODEL, training_file=add_file(served))
            served.wait_for(other.id, "queued")  # one at a time
            cancelled = await jobs.cancel(running)
            assert (cancelled.status, cancelled.fine_tuned_model) == ("cancelled", None)
            assert cancelled.finished_at is not None
            served.trainer.may_step.set()
            served.wait_for(other.id, "succeeded")
            with pytest.raises(openai.BadRequestError, match="the job is succeeded"):
                await jobs.cancel(other.id)
            assert served.trainer.forgotten == [running, other.id]
            for call in (jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume, jobs.list_events):
                with pytest.raises(openai.NotFoundError, match="there is no fine-tuning job"):
                    await call("ftjob-none")

    run(work())
    assert served.jobs.get(running)["status"] == "cancelled"


def test_too_many_jobs_are_refused(served: Served) -> None:
    served.trainer.may_step.clear()
    assert [create(served).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert create(served).json()["error"]["code"] == "too_many_jobs"


def test_steps_that_are_made_again_are_told_once(served: Served) -> None:
    job_id = create(served).json()["id"]
    served.wait_for(job_id, "succeeded")
    num_events = len(served.jobs.events(job_id, None, 100)[0])
    served.jobs.add_step(job_id, 2, "again", {}, trained_tokens=1)
    served.jobs.add_checkpoint(job_id, 3, "again", {})
    assert len(served.jobs.events(job_id, None, 100)[0]) == num_events
    assert served.jobs.get(job_id)["trained_tokens"] == 30


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("limit=101", "limit"),
        ("order=asc", "order"),
        ("metadata=1", "metadata"),
    ],
)
def test_wrong_queries_are_named(served: Served, query: str, param: str) -> None:
    response = get(served.app, f"/v1/fine_tuning/jobs?{query}")
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_without_fine_tuning_there_are_no_such_routes() -> None:
    from tests.server.clients import make_app

    assert get(make_app(), "/v1/fine_tuning/jobs").status_code == 404
