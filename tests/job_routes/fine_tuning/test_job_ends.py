"""How work on a job ends early: it is cancelled, or the server ends and the next one goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flaxen.job_routes.fine_tuning.tuned_models import FineTunedModels
from tests.job_routes.fine_tuning.serving import FakeTrainer, Served, serving
from tests.job_routes.fine_tuning.test_jobs import create
from tests.server.clients import post


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as each:
        yield each


def test_a_server_that_ends_leaves_its_job_to_the_next(tmp_path: Path) -> None:
    trainer = FakeTrainer()
    with serving(tmp_path, trainer) as served:
        job_id = create(served).json()["id"]
        served.wait_for(job_id, "succeeded")
        trainer.may_step.clear()
        job_id = create(served).json()["id"]
        served.wait_for(job_id, "running")
    assert served.jobs.get(job_id)["status"] == "running"

    trainer.may_step.set()
    trainer.steps[job_id] = 1
    trainer.served.clear()
    with serving(tmp_path, trainer) as served:
        row = served.wait_for(job_id, "succeeded")
        assert trainer.jobs[-1].id == job_id
        assert served.messages(job_id).count("Fine-tuning job started") == 1
        trainer.served.clear()
        FineTunedModels(served.jobs, trainer).serve_all()
        assert (job_id, 3, row["model_name"]) in trainer.served
        assert len(trainer.served) == 4
    assert trainer.forgotten.count(job_id) == 2  # the last time after it has succeeded


def test_a_job_is_cancelled_while_its_files_are_validated(served: Served) -> None:
    served.trainer.may_validate.clear()
    first, second = create(served).json()["id"], create(served).json()["id"]
    begin_s = time.monotonic()
    assert post(served.app, f"/v1/fine_tuning/jobs/{first}/cancel", {}).status_code == 200
    served.wait_for_event(second, "Validating training file")
    assert time.monotonic() - begin_s < 5
    served.trainer.may_validate.set()
    served.wait_for(second, "succeeded")
    assert served.jobs.get(first)["status"] == "cancelled"
    assert "Files validated, moving job to queued state" not in served.messages(first)


@pytest.mark.parametrize("work", ["validating_files", "running"])
def test_work_ends_when_the_server_begins_to_and_is_taken_up_by_the_next(
    tmp_path: Path, work: str
) -> None:
    trainer, closing = FakeTrainer(), threading.Event()
    trainer.may_validate.clear()
    trainer.may_step.clear()
    with serving(tmp_path, trainer, is_closing=closing.is_set) as served:
        if work == "running":
            trainer.may_validate.set()
        job_id = create(served).json()["id"]
        served.wait_for(job_id, work)
        served.wait_for_event(job_id, "Validating" if work != "running" else "started")
        closing.set()
        served.worker.wake()  # the thread that has no work
        begin_s = time.monotonic()
        served.worker.wait()
        assert time.monotonic() - begin_s < 5
        assert served.jobs.get(job_id)["status"] == work
    trainer.may_validate.set()
    trainer.may_step.set()
    with serving(tmp_path, trainer) as served:
        served.wait_for(job_id, "succeeded")
