"""Two processes of `jax.distributed` save a checkpoint, and are killed while they save another."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.checkpoints.checkpoints import Checkpoints
from flaxen.weights.checkpoint import open_checkpoint
from tests.models.golden import GOLDENS

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_save_and_are_killed(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.mesh.saving_process", str(index), port, str(tmp_path)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in (0, 1)
    ]
    own = tmp_path / "2.part" / "arrays-00000-of-00002.safetensors"
    try:
        until = time.monotonic() + 180
        while not own.exists() or processes[1].poll() is None:  # which ends itself
            assert processes[0].poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        for process in processes:
            process.kill()
        said = [process.communicate()[0] for process in processes]
    assert ["restored" in each for each in said] == [True, True]
    checkpoint = open_checkpoint(GOLDENS / "qwen3_tied")
    whole = checkpoint.load_params(jnp.dtype("float32"))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        template = {
            "params": whole,
            "layers": whole["layers"],
            "step": jnp.int32(0),
            "key": jax.random.key(0),
        }
        restored = checkpoints.restore(template).tree
    assert not own.parent.exists()
    jax.tree.map(np.testing.assert_array_equal, restored["params"], whole)
    jax.tree.map(np.testing.assert_array_equal, restored["layers"], whole["layers"])
    assert [each.name for each in tmp_path.iterdir()] == ["1"]
