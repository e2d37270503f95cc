"""A job's body: what it is read as, and in which words what is wrong with it is refused.

bodies.json was recorded from the validators by hand that pydantic took the place of:
bodies in the neighbourhood of each limit, and the job or the error of each.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from flaxen.job_routes.fine_tuning.job_schema import read_job
from flaxen.server.errors import ApiError

JOB = {"model": "m", "training_file": "file-1"}
BODIES = json.loads((Path(__file__).parent / "bodies.json").read_text())


def answer(given: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"job": dataclasses.asdict(read_job(JOB | given, max_lora_rank=64))}
    except ApiError as error:
        return {"error": [error.status, error.param, error.code, error.message]}


@pytest.mark.parametrize("recorded", BODIES, ids=lambda body: json.dumps(body["given"])[:60])
def test_a_body_is_answered_as_recorded(recorded: dict[str, Any]) -> None:
    given = recorded["given"]
    # As text, in which 3 is not 3.0.
    assert json.dumps({"given": given, **answer(given)}) == json.dumps(recorded)


def test_null_is_not_given_at_any_depth() -> None:
    given: dict[str, Any] = {"type": "dpo", "dpo": {"x": None, "hyperparameters": {"y": None}}}
    odd = {"z": None, "lora": {"dropout": None, "rank": None}, "method": given | {"x": None}}
    plain = {"method": {"type": "dpo"}}
    assert read_job(JOB | odd, max_lora_rank=8) == read_job(JOB | plain, max_lora_rank=8)


def test_whole_numbers_may_have_a_point() -> None:
    numbers = {"n_epochs": 3.0, "batch_size": 4.0}
    job = read_job(
        JOB | {"seed": 5.0, "lora": {"rank": 2.0}, "hyperparameters": numbers}, max_lora_rank=8
    )
    found = [job.seed, job.lora["rank"], *(job.hyperparameters[name] for name in numbers)]
    assert found == [5, 2, 3, 4]
    assert all(type(value) is int for value in found)
