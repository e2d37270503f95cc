"""Whole training steps of a 1B and an 8B shape, compiled for slices of eight TPU chips.

One layer stands for all, which are alike; most of the compiler's time is for the gradient of the
loss. Nothing runs here.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from flaxen.engine_args import EngineArgs
from flaxen.planning.plan import plan
from flaxen.planning.training import TrainingArgs
from flaxen.sharding.shape import parse_mesh
from tests.planning.shapes import LLAMA_1B, LLAMA_8B, config_only


@pytest.mark.parametrize(
    ("target", "mesh", "shape", "method"),
    [("v6e-8", "fsdp=8", LLAMA_1B, "full"), ("v5e-8", "fsdp=4,tensor=2", LLAMA_8B, "lora")],
    ids=["v6e-1b-full", "v5e-8b-lora"],
)
def test_training_compiles(
    tmp_path: Path, target: str, mesh: str, shape: dict[str, object], method: str
) -> None:
    directory = config_only(tmp_path / "model", shape, num_hidden_layers=1)
    train = TrainingArgs(method=method, batch_size=8, sequence_length=512, remat="layer")
    training = plan(
        EngineArgs(model=str(directory)), target, parse_mesh(mesh), train=train
    ).training
    assert training is not None
    assert training.refusal is None
    assert training.fits
    assert len(training.compiled) == 2
    # Weights are gathered where they are used, and gradients go back as each device's part.
    kinds = {each.kind for each in training.work.collectives}
    assert kinds >= {"all-gather", "reduce-scatter"}
