"""Which weights these are: the same wherever they lie, others after any fine-tune."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from safetensors.numpy import load_file, save_file

from flaxen.checkpoints.identity import digest_of_arrays, digest_of_files, text_digests
from flaxen.weights.checkpoint import open_checkpoint
from tests.bridges.words import byte_tokenizer
from tests.data.tiny_text import make_tokenizer
from tests.engine.tiny import PARAMS
from tests.models.golden import GOLDENS


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDENS / "llama_default", tmp_path / "model"))


def digest(model: Path) -> str:
    return digest_of_files(open_checkpoint(model))


def test_names_and_shards_are_no_identity(model: Path) -> None:
    before = digest(model)
    moved = model.rename(model.with_name("moved"))
    whole = moved / "model.safetensors"
    tensors = load_file(whole)
    shards = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for shard in set(shards.values()):
        save_file({name: tensors[name] for name in tensors if shards[name] == shard}, moved / shard)
    whole.unlink()
    (moved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert digest(moved) == before


def test_each_tensor_counts(model: Path) -> None:
    whole = model / "model.safetensors"
    tensors = load_file(whole)
    found = {digest(model)}
    for name, tensor in tensors.items():
        save_file({**tensors, name: tensor * 1.01}, whole)
        found.add(digest(model))
    assert len(found) == 1 + len(tensors)


def test_each_array_in_memory_counts() -> None:
    leaves, structure = jax.tree.flatten(PARAMS)
    found = {digest_of_arrays(PARAMS), digest_of_arrays(jax.tree.map(jnp.bfloat16, PARAMS))}
    for number in range(len(leaves)):
        changed = [leaf * 1.01 if i == number else leaf for i, leaf in enumerate(leaves)]
        found.add(digest_of_arrays(jax.tree.unflatten(structure, changed)))
    assert len(found) == 2 + len(leaves)
    assert digest_of_arrays(jax.tree.map(jnp.copy, PARAMS)) == digest_of_arrays(PARAMS)


def test_tokenizers_are_told_apart() -> None:
    one, other = text_digests(byte_tokenizer()), text_digests(make_tokenizer())
    assert one == text_digests(byte_tokenizer())
    assert one["tokenizer"] != other["tokenizer"]
