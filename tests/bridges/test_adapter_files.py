"""Files of adapters beside definitions in Flax and plain JAX: modules are paths of parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import flaxen
from flaxen.hub.weight_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from flaxen.models.adapters import LoraConfig, adapter_shapes, lora_targets
from flaxen.models.model import Model, Params
from flaxen.training.jobs.run import run_job
from flaxen.training.jobs.spec import Base, adapter_directory
from flaxen.weights.adapters.adapter import Adapter
from flaxen.weights.adapters.peft import load_adapter
from flaxen.weights.adapters.peft_writer import save_adapter
from tests.bridges.test_function import Layer, Weights, make_weights, transformer
from tests.data.tiny_text import make_tokenizer
from tests.extras import extra
from tests.training.test_jobs import CHATS, Told, make_spec
from tests.weights.adapters.made import random_adapter


@pytest.fixture(scope="module")
def model() -> Model:
    return flaxen.from_function(transformer, make_weights(), max_position=128)


def assert_round_trip(directory: Path, adapter: Adapter, model: Model) -> None:
    save_adapter(directory, adapter, model=model)
    loaded = load_adapter(directory, model)
    assert loaded.config == adapter.config
    jax.tree.map(np.testing.assert_array_equal, loaded.layers, adapter.layers)


@pytest.mark.parametrize("parts", [(), ("qkv", "up"), ("layers[1].out",)])
def test_what_is_saved_is_loaded_to_the_bit(
    tmp_path: Path, model: Model, parts: tuple[str, ...]
) -> None:
    targets = lora_targets(model, *parts)
    assert_round_trip(tmp_path / "a", random_adapter(model, targets=targets), model)


def test_a_functions_modules_are_the_paths_of_its_tree(tmp_path: Path, model: Model) -> None:
    save_adapter(tmp_path, random_adapter(model, targets=lora_targets(model)), model=model)
    shapes = {name: each.shape for name, each in load_file(tmp_path / ADAPTER_WEIGHTS).items()}
    sizes = {"qkv": (64, 128), "out": (64, 64), "up": (64, 128), "down": (128, 64)}
    expected = {}
    for index in range(2):
        for name, (num_in, num_out) in sizes.items():
            prefix = f"base_model.model.layers.{index}.{name}"
            expected[f"{prefix}.lora_A.weight"] = (3, num_in)
            expected[f"{prefix}.lora_B.weight"] = (num_out, 3)
    assert shapes == expected
    fields = json.loads((tmp_path / ADAPTER_CONFIG).read_text())
    assert fields["target_modules"] == sorted(
        f"layers.{index}.{name}" for index in range(2) for name in sizes
    )


def nnx_definition() -> tuple[Model, Params]:
    nnx = extra("flax.nnx")
    from tests.bridges.nnx_model import Transformer

    return flaxen.from_nnx(Transformer(rngs=nnx.Rngs(0)), max_position=128)


def test_modules_of_flax_are_without_their_collection(tmp_path: Path) -> None:
    model, _ = nnx_definition()
    targets = lora_targets(model, "query", "out", "down")
    assert_round_trip(tmp_path / "a", random_adapter(model, targets=targets), model)
    shapes = {
        name: each.shape for name, each in load_file(tmp_path / "a" / ADAPTER_WEIGHTS).items()
    }
    assert len(shapes) == 2 * 2 * 3
    # Heads are one axis in a file, as they are in the product.
    assert shapes["base_model.model.blocks.0.attention.query.kernel.lora_B.weight"] == (64, 3)
    assert shapes["base_model.model.blocks.1.down.kernel.lora_A.weight"] == (3, 256)


def test_saving_needs_the_definition(tmp_path: Path, model: Model) -> None:
    adapter = random_adapter(model, targets=lora_targets(model))
    with pytest.raises(ValueError, match=r"targets are a definition's, .* give save_adapter\(.*mo"):
        save_adapter(tmp_path, adapter)
    with pytest.raises(ValueError, match=r"the model's layers have no .*qkv.* to adapt"):
        save_adapter(tmp_path, adapter, model=nnx_definition()[0])


@pytest.mark.parametrize(
    ("fields", "dropped", "message"),
    [
        ({"target_modules": ["qkv"]}, (), "holds tensors of layers.0.down, which target_modules l"),
        ({"target_modules": ["gate"]}, (), "'gate', which can't be .* only down, out, qkv, up can"),
        ({"target_modules": ["x"] * 9}, (), "has 9 names, and the model 8 linear weights"),
        ({}, ("layers.1.out.lora_A",), r"layers\.1\.out\.lora_A\.weight is missing"),
        (
            {"target_modules": ["qkv", "out", "up", "down"]},
            ("layers.1.out.lora_A", "layers.1.out.lora_B"),
            r"'out', and adapter_model\.safetensors holds no tensor of layers\.1\.out",
        ),
        (
            {},
            ("layers.1.out.lora_A", "layers.1.out.lora_B"),
            r"'layers\.1\.out', of which adapter_model\.safetensors holds no tensor",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(
    tmp_path: Path, model: Model, fields: Any, dropped: tuple[str, ...], message: str
) -> None:
    save_adapter(tmp_path, random_adapter(model, targets=lora_targets(model)), model=model)
    config = json.loads((tmp_path / ADAPTER_CONFIG).read_text())
    (tmp_path / ADAPTER_CONFIG).write_text(json.dumps({**config, **fields}))
    names = {f"base_model.model.{name}.weight" for name in dropped}
    tensors = {
        name: each
        for name, each in load_file(tmp_path / ADAPTER_WEIGHTS).items()
        if name not in names
    }
    save_file(tensors, tmp_path / ADAPTER_WEIGHTS)
    with pytest.raises(ValueError, match=message):
        load_adapter(tmp_path, model)


def test_tensors_without_a_place_are_refused(tmp_path: Path, model: Model) -> None:
    save_adapter(tmp_path, random_adapter(model, targets=lora_targets(model)), model=model)
    extra = {"base_model.model.embed.lora_embedding_A": np.ones((3, 9), np.float32)}
    save_file({**load_file(tmp_path / ADAPTER_WEIGHTS), **extra}, tmp_path / ADAPTER_WEIGHTS)
    with pytest.raises(
        ValueError, match=r"embed.lora_embedding_A has no place: .* this definition"
    ):
        load_adapter(tmp_path, model)


def test_names_that_become_the_same_are_refused(tmp_path: Path) -> None:
    weights = make_weights()
    twice = {"a.b": weights.layers[0].up, "a": {"b": weights.layers[1].up}}

    def function(params: Any, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        x = transformer(params["rest"], tokens, positions)
        narrow = x[..., :64]
        wide = narrow @ params["a.b"] + narrow @ params["a"]["b"]
        # The product that ends in the scores is a table's, which nothing is adapted of.
        more = wide @ params["rest"].layers[0].down
        return x + jax.numpy.pad(more, ((0, 0), (0, 0), (0, x.shape[-1] - more.shape[-1])))

    model = flaxen.from_function(function, {"rest": weights, **twice}, max_position=128)
    with pytest.raises(ValueError, match=r"two parameters of the definition are called 'a\.b'"):
        save_adapter(tmp_path, random_adapter(model, targets=lora_targets(model)), model=model)


def test_a_fine_tuning_job_beside_a_definition_leaves_such_files(tmp_path: Path) -> None:
    weights, tokenizer = make_weights(), make_tokenizer()
    model = flaxen.from_function(transformer, weights, max_position=128)
    base = Base(model=model, params=weights, tokenizer=tokenizer, name="own", max_length=96)
    told = Told()
    spec = make_spec(
        tmp_path, CHATS, lora=LoraConfig(rank=4, alpha=8.0, targets=lora_targets(model))
    )
    assert run_job(spec, base, told.callbacks())
    losses = [metrics["train_loss"] for _, _, metrics, _ in told.steps]
    assert losses[-1] < losses[0]
    adapter = load_adapter(adapter_directory(spec.directory, len(losses)), model)
    assert adapter.config == spec.lora
    assert all(np.abs(pair["b"]).max() > 0 for pair in adapter.layers[0].values())


def test_a_parameter_of_a_class_is_a_target_too() -> None:
    layer = make_weights(1)

    def function(own: Layer, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        return transformer(Weights(layer.embed, (own,)), tokens, positions)

    model = flaxen.from_function(function, layer.layers[0], max_position=128)
    assert lora_targets(model) == (".qkv", ".out", ".up", ".down")
    config = LoraConfig(targets=lora_targets(model, "up"))
    assert adapter_shapes(model, config) == {"layers": ({".up": {"a": (64, 16), "b": (16, 128)}},)}
