"""A job's body: null is not given wherever it stands, and whole numbers may have a point."""

from __future__ import annotations

from typing import Any

from flaxen.server.fine_tuning.schema import read_job

JOB = {"model": "m", "training_file": "file-1"}


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
