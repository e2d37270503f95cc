"""Directories in which several models' files lie: never one of them in silence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxen.hub.weight_files import INDEX, SINGLE, missing_files
from flaxen.weights.checkpoint import open_checkpoint
from tests.weights.files import copy_golden

Q0 = "model.layers.0.self_attn.q_proj.weight"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A whole file, and beside it an index and shards of a model in which one tensor differs."""
    copy_golden("llama_linear", tmp_path)
    tensors = load_file(tmp_path / SINGLE)
    names = sorted(tensors)
    old = {**tensors, Q0: tensors[Q0] + 1}
    for shard, held in zip(SHARDS, (names[::2], names[1::2]), strict=True):
        save_file({name: old[name] for name in held}, tmp_path / shard)
    shard_of = {name: SHARDS[i % 2] for i, name in enumerate(names)}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": shard_of}))
    return tmp_path


def read_q0(directory: Path) -> np.ndarray:
    params = open_checkpoint(directory).load_params(jnp.dtype("float32"))
    return np.asarray(params["layers"][0]["wq"]).T


def remove(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).unlink()


def test_a_whole_file_beside_shards_is_refused(mixed: Path) -> None:
    message = (
        "holds two sets of weights, model.safetensors and model-00001-of-00002.safetensors with 1 "
        "more like it: one of them is an older model's. Keep one: remove model.safetensors, or "
        "remove the shards and model.safetensors.index.json"
    )
    with pytest.raises(ValueError, match=message):
        open_checkpoint(mixed)
    remove(mixed, SHARDS[0])
    with pytest.raises(ValueError, match=r"two sets of weights, .* model-00002-of-00002.safetens"):
        open_checkpoint(mixed)


def test_a_whole_file_beside_shards_without_an_index_is_refused(mixed: Path) -> None:
    remove(mixed, INDEX)
    with pytest.raises(ValueError, match=r"two sets of weights, .* or remove the shards$"):
        open_checkpoint(mixed)


def test_a_whole_file_stands_alone_beside_an_index_without_shards(mixed: Path) -> None:
    expected = load_file(mixed / SINGLE)[Q0]
    remove(mixed, *SHARDS)
    np.testing.assert_array_equal(read_q0(mixed), expected)


def test_what_has_the_name_of_a_shard_and_is_no_file_does_not_count(mixed: Path) -> None:
    expected = load_file(mixed / SINGLE)[Q0]
    remove(mixed, INDEX, *SHARDS)
    (mixed / SHARDS[0]).symlink_to(mixed / "removed")  # as in a cache that was cleaned
    (mixed / SHARDS[1]).mkdir()
    np.testing.assert_array_equal(read_q0(mixed), expected)


@pytest.mark.parametrize("name", [SINGLE, INDEX])
def test_a_link_that_leads_nowhere_is_named(mixed: Path, name: str) -> None:
    remove(mixed, SINGLE, INDEX, *SHARDS)
    (mixed / name).symlink_to(mixed / "removed")
    with pytest.raises(ValueError, match=rf"{name} is a link to a file that does not exist: down"):
        open_checkpoint(mixed)


def test_shards_stand_alone(mixed: Path) -> None:
    expected = load_file(mixed / SINGLE)[Q0] + 1
    remove(mixed, SINGLE)
    np.testing.assert_array_equal(read_q0(mixed), expected)


def test_an_index_may_name_the_whole_file(mixed: Path) -> None:
    tensors = load_file(mixed / SINGLE)
    remove(mixed, *SHARDS)
    (mixed / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, SINGLE)}))
    np.testing.assert_array_equal(read_q0(mixed), tensors[Q0])


def test_other_names_of_an_index_count_as_shards(mixed: Path) -> None:
    names = ("a.safetensors", "b.safetensors")
    text = (mixed / INDEX).read_text()
    for shard, name in zip(SHARDS, names, strict=True):
        (mixed / shard).rename(mixed / name)
        text = text.replace(shard, name)
    (mixed / INDEX).write_text(text)
    with pytest.raises(ValueError, match=r"two sets of weights, .* a.safetensors with 1 more like"):
        open_checkpoint(mixed)


def test_missing_shards_name_what_is_there_instead(mixed: Path) -> None:
    remove(mixed, *SHARDS)
    (mixed / SINGLE).rename(mixed / "consolidated.safetensors")
    message = (
        "00001-of-00002.safetensors does not exist, but model.safetensors.index.json names it and "
        "1 more that are missing: consolidated.safetensors, which it does not name, is there; if "
        "the index is an older model's, replace it by that of these weights"
    )
    with pytest.raises(ValueError, match=message):
        open_checkpoint(mixed)
    remove(mixed, "consolidated.safetensors")
    with pytest.raises(ValueError, match="1 more that are missing: download what is missing"):
        open_checkpoint(mixed)


def test_a_tensor_that_the_index_does_not_list_is_not_dropped(mixed: Path) -> None:
    remove(mixed, SINGLE)
    held = load_file(mixed / SHARDS[0])
    save_file({**held, "extra": np.zeros(1, np.float32)}, mixed / SHARDS[0])
    with pytest.raises(ValueError, match="tensor extra has no place in the model"):
        open_checkpoint(mixed)


def only_shards(directory: Path) -> None:
    remove(directory, SINGLE, INDEX)


def only_others(directory: Path) -> None:
    remove(directory, INDEX, *SHARDS)
    (directory / SINGLE).rename(directory / "consolidated.safetensors")


def only_adapter(directory: Path) -> None:
    remove(directory, INDEX, *SHARDS)
    (directory / SINGLE).rename(directory / "adapter_model.safetensors")


def adapter_alone(directory: Path) -> None:
    remove(directory, "config.json")
    (directory / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')


def adapter_beside(directory: Path) -> None:
    remove(directory, INDEX, *SHARDS)
    (directory / "adapter_config.json").write_text("{}")
    (directory / "adapter_model.safetensors").touch()


def gguf_beside_config(directory: Path) -> None:
    remove(directory, INDEX, SINGLE, *SHARDS)
    (directory / "b.gguf").touch()


def a_run(directory: Path) -> None:
    for name in ("checkpoints", "adapter-0", "adapter-1"):
        (directory / name).mkdir()
        (directory / name / "adapter_config.json").touch()
    (directory / "checkpoints" / "adapter_config.json").unlink()


def two_ggufs(directory: Path) -> None:
    remove(directory, "config.json")
    (directory / "b.gguf").touch()
    (directory / "a.gguf").touch()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (only_shards, "00001-of-00002.safetensors with 1 more like it is there, but without its"),
        (only_others, "consolidated.safetensors is there, whose layout is not known by that name"),
        (only_adapter, "adapter_model.safetensors is there, which is a LoRA adapter: serve its"),
        (adapter_alone, "holds a LoRA adapter .* and no model: give its base model, org/base, "),
        (adapter_beside, "holds a whole model and a LoRA adapter .*: move the adapter's two files"),
        (
            gguf_beside_config,
            "has neither model.safetensors nor .*, but b.gguf: give the path of the",
        ),
        (
            a_run,
            "is the directory of a training run: give its result, .*/adapter-0 or .*/adapter-1$",
        ),
        (two_ggufs, "has no config.json, but a.gguf with 1 more like it: give .*, as .*/a.gguf"),
    ],
)
def test_what_else_a_directory_holds_is_named(
    mixed: Path, change: Callable[[Path], None], message: str
) -> None:
    change(mixed)
    with pytest.raises(ValueError, match=message):
        open_checkpoint(mixed)


def test_safetensors_are_read_beside_a_gguf_file(mixed: Path) -> None:
    remove(mixed, INDEX, *SHARDS)
    (mixed / "q4.gguf").touch()  # it is read where its own path is given
    np.testing.assert_array_equal(read_q0(mixed), load_file(mixed / SINGLE)[Q0])


def test_a_cache_is_complete_with_the_whole_file_or_with_all_shards(mixed: Path) -> None:
    (mixed / "tokenizer.json").touch()
    assert not missing_files(mixed)
    remove(mixed, SHARDS[0])
    assert not missing_files(mixed)
    remove(mixed, SINGLE)
    assert missing_files(mixed) == [SHARDS[0]]
