"""Directories with config.json and safetensors: sound ones load, each damage has its message."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxen.weights.checkpoint import open_checkpoint
from tests.weights.files import change_config, change_tensors, copy_golden

FLOAT32 = jnp.dtype("float32")
Q0, Q1 = (f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return copy_golden("llama_linear", tmp_path)


def shard(directory: Path, *, forget: str | None = None) -> dict[str, str]:
    """Splits model.safetensors in two with an index, which is returned."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2],
             "model-00002-of-00002.safetensors": names[1::2]}  # fmt: skip
    index: dict[str, str] = {}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held if name != forget}, directory / file)
        index |= dict.fromkeys(held, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return index


def test_tensors_are_turned_to_in_out(checkpoint: Path) -> None:
    params = open_checkpoint(checkpoint).load_params(FLOAT32)
    tensors = load_file(checkpoint / "model.safetensors")
    np.testing.assert_array_equal(params["layers"][1]["wq"], tensors[Q1].T)
    np.testing.assert_array_equal(params["embed"], tensors["model.embed_tokens.weight"])
    np.testing.assert_array_equal(params["unembed"], tensors["lm_head.weight"])
    np.testing.assert_array_equal(params["final_norm"], tensors["model.norm.weight"])


def test_shards_equal_one_file(checkpoint: Path) -> None:
    whole = open_checkpoint(checkpoint).load_params(FLOAT32)
    shard(checkpoint)
    parts = open_checkpoint(checkpoint).load_params(FLOAT32)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), whole, parts))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_tensors(checkpoint: Path, dtype: Any) -> None:
    tensors = {k: v.astype(dtype) for k, v in load_file(checkpoint / "model.safetensors").items()}
    save_file(tensors, checkpoint / "model.safetensors")
    opened = open_checkpoint(checkpoint)
    assert opened.dtype == np.dtype(dtype)
    params = opened.load_params(FLOAT32)
    np.testing.assert_array_equal(params["layers"][0]["wq"], tensors[Q0].T.astype(np.float32))
    assert opened.load_params(opened.dtype)["layers"][0]["wq"].dtype == dtype


def test_float32_norms_beside_bfloat16_weights_are_not_rounded(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    change_tensors(checkpoint, **{Q0.replace(".", "__"): tensors[Q0].astype(ml_dtypes.bfloat16)})
    opened = open_checkpoint(checkpoint)
    assert opened.dtype == jnp.bfloat16
    final_norm = opened.load_params(FLOAT32)["final_norm"]
    np.testing.assert_array_equal(final_norm, tensors["model.norm.weight"])


def test_harmless_tensors_are_left_out(tmp_path: Path) -> None:
    copy_golden("llama_tied_biases", tmp_path)
    ones = np.ones(4, np.float32)
    change_tensors(
        tmp_path,
        lm_head__weight=load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"],
        model__layers__0__self_attn__rotary_emb__inv_freq=ones,
        model__rotary_emb__inv_freq=ones,
    )
    assert "unembed" not in open_checkpoint(tmp_path).load_params(FLOAT32)


def test_code_and_pickle_files_are_never_touched(checkpoint: Path) -> None:
    change_config(checkpoint, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    ran = checkpoint / "ran"
    (checkpoint / "modeling_evil.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    (checkpoint / "pytorch_model.bin").write_bytes(b"c__builtin__\nexit\n(tR.")
    # An audit hook sees every file that Python opens; it can't be removed, so it is switched off.
    opened: list[str] = []
    watching = True
    sys.addaudithook(
        lambda event, args: opened.append(str(args[0])) if watching and event == "open" else None
    )
    open_checkpoint(checkpoint).load_params(FLOAT32)
    watching = False
    assert any(name.endswith("config.json") for name in opened)
    assert not any(name.endswith(("modeling_evil.py", ".bin")) for name in opened)
    assert not ran.exists()
    assert "modeling_evil" not in sys.modules


def damage(directory: Path, how: str) -> None:
    config, weights = directory / "config.json", directory / "model.safetensors"
    index = directory / "model.safetensors.index.json"
    if how == "no config":
        config.unlink()
    elif how == "bad JSON":
        config.write_text('{"vocab_size": 128,')
    elif how == "deep JSON":
        config.write_text("[" * 100_000)
    elif how == "not UTF-8":
        config.write_bytes(b'{"a": "\xff"}')
    elif how == "a list":
        config.write_text("[]")
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif how == "truncated header":
        weights.write_bytes(weights.read_bytes()[:100])
    elif how == "no weights":
        weights.unlink()
    elif how == "pickle":
        weights.rename(directory / "pytorch_model.bin")
    elif how == "missing shard":
        (directory / shard(directory)[Q0]).unlink()
    elif how == "missing in shard":
        shard(directory, forget=Q0)
    elif how == "empty index":
        index.write_text("{}")
    elif how == "bad index":
        index.write_text("{")
    else:
        names = {"path out": "../model.safetensors", "no name": 7}
        index.write_text(json.dumps({"weight_map": {Q0: names[how]}}))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no config", r"config\.json does not exist: .* is no complete checkpoint"),
        ("bad JSON", r"config\.json is not valid JSON: .*line 1 column 20.*Download it again"),
        ("deep JSON", r"config\.json is not valid JSON"),
        ("not UTF-8", r"config\.json is not valid JSON: .*utf-8"),
        ("a list", r"config\.json must hold a JSON object, got list"),
        ("truncated", r"model\.safetensors is truncated or damaged \(.*\): download it again"),
        ("truncated header", r"model\.safetensors is truncated or damaged"),
        ("no weights", r"has neither model\.safetensors nor .*index\.json: download the weights"),
        (
            "pickle",
            r"pytorch_model\.bin is there, but pickle files can run code and are never read",
        ),
        ("missing shard", r"model-0000\d-of-00002\.safetensors does not exist, but .* names it"),
        ("missing in shard", rf"tensor {Q0} is not in model-0000\d-of-00002\.safetensors"),
        ("empty index", r"index\.json must have a weight_map object, got None"),
        ("bad index", r"index\.json is not valid JSON"),
        ("path out", r"weight_map names '\.\./model\.safetensors', which is no file beside it"),
        ("no name", r"weight_map names 7, which is no file beside it"),
    ],
)
def test_each_damage_has_its_message(checkpoint: Path, how: str, message: str) -> None:
    open_checkpoint(checkpoint)
    damage(checkpoint, how)
    with pytest.raises(ValueError, match=message):
        open_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architectures": ["BloomForCausalLM"]}, "'BloomForCausalLM' is not supported. Known are"),
        ({"architectures": ["LlamaForCausalLM", "X"]}, "must name one architecture, got .*'X'"),
        ({"architectures": None, "model_type": None}, "must name one architecture, got None"),
        ({"architectures": "LlamaForCausalLM"}, "must name one architecture, got 'Llama"),
        ({"quantization_config": {"quant_method": "awq"}}, r"quantization_config \('awq'\)"),
        ({"num_key_value_heads": 3}, r"num_heads \(4\) must be a multiple of num_kv_heads \(3\)"),
    ],
)
def test_configurations_that_are_refused(
    checkpoint: Path, fields: dict[str, Any], message: str
) -> None:
    change_config(checkpoint, **fields)
    with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
        open_checkpoint(checkpoint)


def test_without_architectures_the_model_type_counts(checkpoint: Path) -> None:
    expected = open_checkpoint(checkpoint).config
    change_config(checkpoint, architectures=None)
    assert open_checkpoint(checkpoint).config == expected


@pytest.mark.parametrize("dtype", [np.int8, np.float64, np.uint8])
def test_other_dtypes_are_refused(checkpoint: Path, dtype: Any) -> None:
    change_tensors(checkpoint, **{Q0.replace(".", "__"): np.zeros((32, 32), dtype)})
    with pytest.raises(ValueError, match=rf"tensor {Q0} has dtype (I8|F64|U8), which is not supp"):
        open_checkpoint(checkpoint)
