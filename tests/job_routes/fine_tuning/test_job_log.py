"""What the log says about fine-tuning jobs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flaxen.job_routes.fine_tuning.job_log import JobLog
from tests.job_routes.fine_tuning.serving import MODEL, Served, serving
from tests.job_routes.fine_tuning.test_jobs import add_file, create
from tests.server.clients import get, post


@pytest.fixture
def served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Served]:
    caplog.set_level(logging.INFO, "flaxen")
    with serving(tmp_path, max_active_jobs=3) as each:
        yield each


def job_lines(caplog: pytest.LogCaptureFixture, job_id: str) -> list[logging.LogRecord]:
    return [each for each in caplog.records if job_id in each.getMessage().split("/")[0]]


def messages(caplog: pytest.LogCaptureFixture, job_id: str) -> list[str]:
    lines = [record.getMessage() for record in job_lines(caplog, job_id)]
    return [line.removeprefix(f"fine-tuning job {job_id}").lstrip(" :") for line in lines]


def wait_for(caplog: pytest.LogCaptureFixture, words: str) -> None:
    deadline_s = time.monotonic() + 20
    while words not in caplog.text:
        assert time.monotonic() < deadline_s, f"no line has {words!r}"
        time.sleep(0.005)


def test_a_job_from_its_creation_to_its_model(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    answer = create(served)
    job = answer.json()["id"]
    wait_for(caplog, "has ended")
    assert messages(caplog, job) == [
        "was created; its files are validated",
        "is queued",
        "trains",
        "has read its files and begins its first step",
        "step 1 of 3",
        "step 2 of 3",
        "step 3 of 3",
        "the model of step 2 is served",
        "the model of step 3 is served",
        "has ended: succeeded",
    ]
    lines = {record.getMessage(): vars(record) for record in job_lines(caplog, job)}
    created = lines[f"fine-tuning job {job} was created; its files are validated"]
    assert created["request_id"] == answer.headers["x-request-id"]
    step = lines[f"fine-tuning job {job}: step 2 of 3"]
    assert (step["train_loss"], step["trained_tokens"]) == (0.5, 20)
    end = lines[f"fine-tuning job {job} has ended: succeeded"]
    assert (end["trained_tokens"], end["train_loss"]) == (30, 0.3333)
    assert end["model"].startswith(f"ft:{MODEL}")
    assert end["seconds"] >= 0


def test_a_long_job_has_ten_lines_of_steps(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flaxen")
    log = JobLog({"id": "job", "model": "m", "method": "dpo"})
    for step in range(1, 1006):
        log.stepped(step, 1005, {"train_loss": 1.0}, step)
    steps = [record.args["step"] for record in caplog.records]  # type: ignore[call-overload, index]
    assert steps == [101, 202, 303, 404, 505, 606, 707, 808, 909, 1005]


def test_a_failure_quotes_no_record(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    job = create(served, training_file=add_file(served, b"bad secret")).json()["id"]
    wait_for(caplog, "failed; its events say why")
    record: Any = job_lines(caplog, job)[-1]
    assert (record.levelname, record.code) == ("WARNING", "invalid_training_file")
    assert "secret" not in caplog.text


def test_a_job_that_is_cancelled(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    served.trainer.may_step.clear()
    job = create(served).json()["id"]
    wait_for(caplog, "trains")
    answer = post(served.app, f"/v1/fine_tuning/jobs/{job}/cancel")
    wait_for(caplog, "has ended: cancelled")
    cancelled = [each for each in job_lines(caplog, job) if "is cancelled" in each.getMessage()]
    assert vars(cancelled[0])["request_id"] == answer.headers["x-request-id"]


def test_a_job_that_the_end_of_the_server_stops(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flaxen")
    with serving(tmp_path, max_active_jobs=3) as served:
        served.trainer.may_step.clear()
        create(served)
        wait_for(caplog, "trains")
    assert "stops here; it goes on at the next start" in caplog.text
    with serving(tmp_path, max_active_jobs=3):
        wait_for(caplog, "goes on where it was stopped")
        wait_for(caplog, "has ended: succeeded")


def test_a_client_that_polls_its_job_does_not_hide_its_lines(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    job = create(served).json()["id"]
    wait_for(caplog, "has ended: succeeded")
    caplog.set_level(logging.DEBUG, "flaxen")
    levels = {}
    for name in (job, "ftjob-none"):
        caplog.clear()
        path = f"/v1/fine_tuning/jobs/{name}"
        get(served.app, path)
        levels[name] = [r.levelname for r in caplog.records if path in r.getMessage()]
    assert levels == {job: ["DEBUG"], "ftjob-none": ["INFO"]}
