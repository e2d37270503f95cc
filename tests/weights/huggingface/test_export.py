"""Exported directories: what is loaded from them is what was exported, for every family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from flaxen.families import FAMILIES, hf_fields
from flaxen.kernels.backend import Backend
from flaxen.models.decoder import decoder
from flaxen.models.rope_config import RopeConfig
from flaxen.weights.adapters.adapter import merge_adapter
from flaxen.weights.checkpoint import open_checkpoint
from flaxen.weights.file_tensors import rows_of_params, with_adapter
from flaxen.weights.huggingface.export import export_huggingface, write_directory
from tests.engine.tiny import MODEL_CONFIG, PARAMS, pack_params
from tests.models.features import Features, features, with_features
from tests.models.golden import CASES, GOLDENS, expected, logits_of
from tests.weights.adapters.made import random_adapter
from tests.weights.files import Kind, golden_metadata, golden_tensors, write_gguf

FLOAT32 = jnp.dtype("float32")
LLAMA = FAMILIES["llama"]
CONFIG = with_features(MODEL_CONFIG, windows=())  # a Llama has no windows


def assert_equal(ours: Any, theirs: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)  # raises where the trees differ


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.CPU])
@pytest.mark.parametrize("case", CASES)
def test_every_family_comes_back_to_the_bit(tmp_path: Path, case: str, backend: Backend) -> None:
    source = open_checkpoint(GOLDENS / case)
    params = source.load_params(FLOAT32, backend=backend)
    export_huggingface(tmp_path / "out", source.family, source.config, params)
    again = open_checkpoint(tmp_path / "out")
    assert again.config == source.config
    assert again.family is source.family
    assert again.dtype == jnp.float32
    assert_equal(again.load_params(FLOAT32), source.load_params(FLOAT32))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_dtype_of_the_files(tmp_path: Path, dtype: str) -> None:
    export_huggingface(tmp_path / "out", LLAMA, CONFIG, PARAMS, dtype=dtype)
    again = open_checkpoint(tmp_path / "out")
    assert again.dtype == jnp.dtype(dtype)
    fields = json.loads((tmp_path / "out" / "config.json").read_text())
    assert fields["dtype"] == fields["torch_dtype"] == dtype
    assert_equal(
        again.load_params(FLOAT32),
        jax.tree.map(lambda leaf: leaf.astype(dtype).astype(FLOAT32), PARAMS),
    )


def test_without_a_dtype_files_have_the_parameters_own(tmp_path: Path) -> None:
    packed = pack_params(PARAMS, "bfloat16")
    export_huggingface(tmp_path / "out", LLAMA, CONFIG, packed)
    again = open_checkpoint(tmp_path / "out")
    assert again.dtype == jnp.bfloat16
    assert_equal(again.load_params(jnp.dtype("bfloat16"), backend=Backend.CPU), packed)


def test_shards(tmp_path: Path) -> None:
    rows = rows_of_params(decoder(CONFIG).param_specs, PARAMS)
    written: list[tuple[int, int]] = []
    write_directory(
        tmp_path / "out", LLAMA, CONFIG, rows, dtype="float32", max_shard_bytes=50_000,
        on_progress=lambda done, total: written.append((done, total)),
    )  # fmt: skip
    shards = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    assert sorted(set(index["weight_map"].values())) == shards
    tables = sum(leaf.nbytes for leaf in jax.tree.leaves(PARAMS))
    assert index["metadata"]["total_size"] == tables
    assert written == sorted(written)
    assert written[-1] == (tables, tables)
    for shard in shards:
        tensors = load_file(tmp_path / "out" / shard)
        assert len(tensors) == 1 or sum(each.nbytes for each in tensors.values()) <= 50_000
    assert_equal(open_checkpoint(tmp_path / "out").load_params(FLOAT32), PARAMS)


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.CPU])
def test_an_adapter_is_merged(tmp_path: Path, backend: Backend) -> None:
    source = open_checkpoint(GOLDENS / "qwen3_tied")
    params = source.load_params(FLOAT32)
    adapter = random_adapter(source.model, targets=("wq", "wo", "w_down"), use_rslora=True)
    given = source.load_params(FLOAT32, backend=backend)
    rows = with_adapter(rows_of_params(source.model.param_specs, given), adapter)
    write_directory(tmp_path / "out", source.family, source.config, rows, dtype="float32")
    exported = open_checkpoint(tmp_path / "out").load_params(FLOAT32)
    assert_equal(exported, merge_adapter(params, adapter))
    tokens, logits = expected("qwen3_tied")
    assert np.abs(logits_of(source.model, exported, tokens) - logits).max() > 0.1


def test_quantized_weights_are_exported_as_what_they_stand_for(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "m.gguf",
        golden_metadata("llama_default"),
        golden_tensors("llama_default"),
        {"blk.0.ffn_gate.weight": Kind.Q8_0},
    )
    source = open_checkpoint(path)
    params = source.load_params(FLOAT32, backend=Backend.CPU, quantization="auto")
    export_huggingface(tmp_path / "out", source.family, source.config, params)
    exported = open_checkpoint(tmp_path / "out").load_params(FLOAT32)
    plain = source.load_params(FLOAT32)
    # Plain loading rounds what it dequantizes to bfloat16; the packed form is exact.
    np.testing.assert_allclose(
        exported["layers"][0]["w_gate"], plain["layers"][0]["w_gate"], rtol=2**-8
    )
    assert_equal(exported["layers"][1], plain["layers"][1])


def test_nothing_is_overwritten_and_nothing_half_is_left(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"already holds thesis\.tex, which would be lost"):
        export_huggingface(out, LLAMA, CONFIG, PARAMS)
    with pytest.raises(FileNotFoundError, match=r"out has no tokenizer\.json"):
        export_huggingface(tmp_path / "new", LLAMA, CONFIG, PARAMS, tokenizer_of=out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(ValueError, match="dtype int8 is not supported: use float32, bfloat16"):
        export_huggingface(tmp_path / "new", LLAMA, CONFIG, PARAMS, dtype="int8")


def test_the_tokenizer_of_a_directory_is_copied(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    files = {
        "tokenizer.json": json.dumps(
            {
                "version": "1.0", "added_tokens": [], "model": {
                    "type": "BPE", "vocab": {"a": 0, "b": 1, "</s>": 2}, "merges": [],
                },
            }
        ),
        "tokenizer_config.json": json.dumps({"eos_token": "</s>"}),
        "generation_config.json": json.dumps({"eos_token_id": [2, 1]}),
        "chat_template.jinja": "{{ messages }}",
    }  # fmt: skip
    for name, text in files.items():
        (source / name).write_text(text)
    (source / "modeling.py").write_text("import os")
    export_huggingface(tmp_path / "out", LLAMA, CONFIG, PARAMS, tokenizer_of=source)
    for name, text in files.items():
        assert (tmp_path / "out" / name).read_text() == text
    assert not (tmp_path / "out" / "modeling.py").exists()
    fields = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (fields["bos_token_id"], fields["eos_token_id"]) == (None, [2, 1])


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        (
            "llama",
            {"windows": (24, 24)},
            "LlamaForCausalLM, which can't say its mixer.window: name a",
        ),
        (
            "mistral",
            {"windows": (None, 24)},
            "which can't say its mixer.window",
        ),
        ("llama", {"biases": ("wq",)}, "LlamaForCausalLM, which can't say its mixer.biases"),
        ("qwen2", {}, "Qwen2ForCausalLM, which can't say its mixer.biases"),
        (
            "qwen3",
            {"qk_norm": True, "biases": ("w_up",)},
            "Qwen3ForCausalLM, which can't say its mlp.b",
        ),
        ("qwen3", {"qk_norm": True, "windows": (8, 24)}, "which can't say its mixer.window"),
        ("llama", {"num_layers": 1001, "windows": ()}, "LlamaForCausalLM: num_hidden_layers must"),
    ],
)
def test_what_a_family_can_not_say(family: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"the model does not fit into .*{message}"):
        hf_fields(FAMILIES[family], with_features(CONFIG, **changes))


def test_every_kind_of_rope_is_said() -> None:
    def again(rope: RopeConfig) -> Features:
        fields = hf_fields(LLAMA, with_features(CONFIG, rope=rope))
        assert fields["architectures"] == ["LlamaForCausalLM"]
        return features(LLAMA.config_from_hf(fields))

    for rope in (
        RopeConfig(theta=1234.5),
        RopeConfig(kind="linear", factor=2.5),
        RopeConfig(kind="llama3", theta=5e5, factor=8.0, original_max_position=8192),
        RopeConfig(
            kind="yarn", factor=4.0, original_max_position=64, beta_fast=2.0, truncate=False,
            attention_factor=1.1, mscale=0.7, mscale_all_dim=0.8,
        ),
    ):  # fmt: skip
        assert again(rope).rope == rope
