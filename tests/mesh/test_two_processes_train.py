"""Two processes with two virtual devices each train as one process with four, and as one device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from flaxen.training.full import full
from flaxen.training.loss import next_token
from tests.cli.train import tiny_training
from tests.mesh.training import FLOAT32, model_on, params_on, run_steps
from tests.mesh.two_processes import two_processes
from tests.training.tiny import make, random_batch


def losses_of_one_process(mesh: str | None) -> list[dict[str, Any]]:
    model = model_on(mesh)
    step = make(full(model, dtype=FLOAT32), next_token(model), weight_decay=0.1, eps=1e-3)
    batches = [random_batch(seed, num_rows=8) for seed in (0, 1)]
    return run_steps(step, params_on(model), batches, num_microbatches=2).metrics


@pytest.mark.slow
def test_a_step_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    mesh = "data=2,tensor=2"  # a replica in each process
    with two_processes(tmp_path, "tests.mesh.training_process", "--mesh", mesh) as processes:
        codes = [each.wait(200) for each in processes]
    assert codes == [0, 0], (tmp_path / "err0").read_text()
    lines = (tmp_path / "out0").read_text().splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    for expected in (losses_of_one_process(mesh), losses_of_one_process(None)):
        for one, other in zip(found, expected, strict=True):
            for name, value in other.items():
                np.testing.assert_allclose(one[name], value.item(), rtol=1e-5, err_msg=name)


def losses_in(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.slow
def test_a_run_on_two_processes_is_that_of_one(tmp_path: Path) -> None:
    model = tiny_training.write_model(tmp_path / "model")
    data = tiny_training.write_texts(tmp_path / "texts.jsonl")
    options = ["--method", "full", "--num-steps", "4", "--mesh", "fsdp=2,tensor=2"]
    paths = (model, data, tmp_path / "two", tmp_path / "cache")
    arguments = tiny_training.arguments(*paths, *options)
    with two_processes(tmp_path, "flaxen", *arguments) as processes:
        codes = [each.wait(200) for each in processes]
    assert codes == [0, 0], (tmp_path / "err0").read_text() + (tmp_path / "err1").read_text()
    assert (tmp_path / "out1").read_bytes() == b""
    assert tiny_training.train(model, data, tmp_path / "one", tmp_path / "cache", *options) == 0
    np.testing.assert_allclose(losses_in(tmp_path / "two"), losses_in(tmp_path / "one"), rtol=1e-5)
    two, one = (load_file(tmp_path / run / "model/model.safetensors") for run in ("two", "one"))
    assert two.keys() == one.keys()
    for name, values in one.items():
        np.testing.assert_allclose(two[name], values, rtol=0, atol=1e-5, err_msg=name)
