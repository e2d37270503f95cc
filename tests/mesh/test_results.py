"""A model on a mesh is written as the same files that it is written as on one device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import flaxen
from flaxen.definitions.files import save_definition
from flaxen.models.layout import param_shardings
from flaxen.weights.checkpoint import open_checkpoint
from flaxen.weights.huggingface.export import export_huggingface
from tests.bridges.words import byte_tokenizer
from tests.mesh.definitions import definition
from tests.mesh.meshes import placement
from tests.models.golden import GOLDENS


def test_a_model_on_a_mesh_is_written_as_on_one_device(tmp_path: Path) -> None:
    source = open_checkpoint(GOLDENS / "qwen3_tied")
    _, divided = flaxen.load(GOLDENS / "qwen3_tied", mesh="tensor=2,fsdp=2")
    for name, params in {"one": source.load_params(jnp.dtype("float32")), "mesh": divided}.items():
        export_huggingface(tmp_path / name, source.family, source.config, params)
    one, mesh = (tmp_path / name / "model.safetensors" for name in ("one", "mesh"))
    assert one.read_bytes() == mesh.read_bytes()


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_definition_on_a_mesh_is_written_as_on_one_device(
    tmp_path: Path, dtype: str | None
) -> None:
    one = replace(definition("jax"), tokenizer=byte_tokenizer())
    shardings = param_shardings(one.model.param_specs, placement("tensor=2,fsdp=2"))
    divided = replace(one, params=jax.device_put(one.params, shardings))
    for name, each in {"one": one, "mesh": divided}.items():
        save_definition(tmp_path / name, each, dtype=None if dtype is None else jnp.dtype(dtype))
    files = [tmp_path / name / "model.safetensors" for name in ("one", "mesh")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_dtype_that_files_do_not_have_is_refused(tmp_path: Path) -> None:
    one = replace(definition("jax"), tokenizer=byte_tokenizer())
    small = replace(one, params={**one.params, "q": one.params["q"].astype(jnp.int4)})
    with pytest.raises(ValueError, match=r"\['q'\] has the dtype int4, which a safetensors f"):
        save_definition(tmp_path / "out", small)
