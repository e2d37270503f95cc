"""A model on a mesh is written as the same files that it is written as on one device."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp

import flaxen
from flaxen.weights.checkpoint import open_checkpoint
from flaxen.weights.huggingface.export import export_huggingface
from tests.models.golden import GOLDENS


def test_a_model_on_a_mesh_is_written_as_on_one_device(tmp_path: Path) -> None:
    source = open_checkpoint(GOLDENS / "qwen3_tied")
    _, divided = flaxen.load(GOLDENS / "qwen3_tied", mesh="tensor=2,fsdp=2")
    for name, params in {"one": source.load_params(jnp.dtype("float32")), "mesh": divided}.items():
        export_huggingface(tmp_path / name, source.family, source.config, params)
    one, mesh = (tmp_path / name / "model.safetensors" for name in ("one", "mesh"))
    assert one.read_bytes() == mesh.read_bytes()
