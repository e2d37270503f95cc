"""What a job reads: rows that hold its records, of training and of validation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flaxen.data.validate import JobMethod
from flaxen.models.adapters import LoraConfig
from flaxen.training.jobs.data import open_job_data
from flaxen.training.jobs.plan import Hyperparameters
from flaxen.training.jobs.spec import Base, JobSpec
from tests.data.tiny_text import chat, make_tokenizer
from tests.engine.tiny import PARAMS
from tests.training.tiny import MODEL

BASE = Base(model=MODEL, params=PARAMS, tokenizer=make_tokenizer(), name="tiny", max_length=4096)


@pytest.mark.parametrize(
    ("method", "short", "long"),
    [
        ("supervised", chat("a", "b"), chat("q" * 3000, "answer")),
        (
            "dpo",
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            {"prompt": "q" * 3000, "chosen": "answer", "rejected": "no"},
        ),
    ],
)
def test_validation_may_be_longer_than_training(
    tmp_path: Path, method: JobMethod, short: Any, long: Any
) -> None:
    """Cut to the rows of training, its answers would be gone."""
    for name, record in (("training", short), ("validation", long)):
        (tmp_path / name).write_text(json.dumps(record) + "\n")
    spec = JobSpec(
        method=method,
        training_file=tmp_path / "training",
        validation_file=tmp_path / "validation",
        hyperparameters=Hyperparameters(),
        lora=LoraConfig(rank=1, alpha=1.0),
        seed=0,
        directory=tmp_path / "job",
    )
    with open_job_data(spec, BASE, lambda: False) as data:
        assert data.plan.row_length <= 256
        assert data.validation is not None
        batch = next(data.validation)
        answers = batch.chosen if method == "dpo" else batch
        assert 3000 < answers.tokens.shape[1] <= 3072
        assert answers.loss_weights.sum() == len("answer") + 1  # and the end of the turn
        assert data.validation.report().num_truncated == 0
