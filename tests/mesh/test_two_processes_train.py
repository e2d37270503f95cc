"""Two processes with two virtual devices each train as one process with four, and as one device."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxen.training.full import full
from flaxen.training.loss import next_token
from tests.mesh.training import FLOAT32, model_on, params_on, run_steps
from tests.training.tiny import make, random_batch

ROOT = Path(__file__).parents[2]


def losses_of_one_process(mesh: str | None) -> list[dict[str, Any]]:
    model = model_on(mesh)
    step = make(full(model, dtype=FLOAT32), next_token(model), weight_decay=0.1, eps=1e-3)
    batches = [random_batch(seed, num_rows=8) for seed in (0, 1)]
    return run_steps(step, params_on(model), batches, num_microbatches=2).metrics


@pytest.mark.slow
def test_two_processes_train_as_one() -> None:
    mesh = "data=2,tensor=2"  # a replica in each process
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.mesh.training_process", str(index), port, mesh],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in (0, 1)
    ]
    try:
        said, _ = (each.communicate(timeout=200)[0] for each in processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [each.returncode for each in processes] == [0, 0]
    found = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    for expected in (losses_of_one_process(mesh), losses_of_one_process(None)):
        for one, other in zip(found, expected, strict=True):
            for name, value in other.items():
                np.testing.assert_allclose(one[name], value.item(), rtol=1e-5, err_msg=name)
