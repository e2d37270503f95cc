"""Stock Flax modules: what was trained, and adapters, are served to the bit."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

pytest.importorskip("flax")
from flax import nnx

import flaxen
from flaxen.hub.weight_files import ADAPTER_WEIGHTS
from flaxen.models.adapters import LoraConfig, lora_targets
from flaxen.models.model import Model, Params
from flaxen.weights.adapters.adapter import Adapter
from flaxen.weights.adapters.peft import load_adapter
from flaxen.weights.adapters.peft_writer import save_adapter
from tests.bridges.linen_model import Transformer as LinenTransformer
from tests.bridges.nnx_model import Transformer
from tests.bridges.training import assert_parity, needs_kernels, train_adapter, train_definition

pytestmark = needs_kernels
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 250, (2, 24)), jnp.int32)
POSITIONS = jnp.broadcast_to(jnp.arange(24, dtype=jnp.int32), (2, 24))


def saved_and_loaded(directory: Path, adapter: Adapter, model: Model) -> Adapter:
    """The adapter, from its files."""
    save_adapter(directory, adapter, model=model)
    loaded = load_adapter(directory, model)
    assert loaded.config == adapter.config
    jax.tree.map(np.testing.assert_array_equal, loaded.layers, adapter.layers)
    return loaded


def linen_definition() -> tuple[Model, Params]:
    """Two layers in a scan with remat."""
    module = LinenTransformer(num_layers=2, dropout=0.1)
    variables = jax.jit(module.init)(jax.random.key(0), TOKENS, POSITIONS)
    return flaxen.from_linen(module, variables, max_position=128)


def test_an_nnx_module() -> None:
    module = Transformer(dropout=0.1, rngs=nnx.Rngs(0))
    model, params = flaxen.from_nnx(module, max_position=128)
    state, losses = train_definition(model, params, 200)
    assert losses[-1] < 0.3 < 4 < losses[0]
    assert_parity(model, {**params, "params": state.params})
    nnx.update(module, state.params)
    assert (module.head.kernel.get_value() == state.params["head"]["kernel"]).all()


def test_an_adapter_beside_an_nnx_module(tmp_path: Path) -> None:
    model, params = flaxen.from_nnx(Transformer(rngs=nnx.Rngs(0)), max_position=128)
    names = lora_targets(model, "query", "value", "up", "down")
    assert len(names) == 2 * 4
    adapter, losses = train_adapter(model, params, LoraConfig(rank=4, targets=names), 30)
    assert losses[-1] < 0.8 * losses[0]
    assert_parity(model, params, saved_and_loaded(tmp_path, adapter, model))


@pytest.fixture(scope="module")
def trained_linen_definition() -> tuple[Model, Params]:
    model, params = linen_definition()
    state, losses = train_definition(model, params, 200)
    assert losses[-1] < 0.6 < 4 < losses[0]
    return model, {**params, "params": state.params}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_linen_module(trained_linen_definition: tuple[Model, Params], dtype: str) -> None:
    assert_parity(*trained_linen_definition, dtype=dtype)


def test_an_adapter_of_stacked_layers(tmp_path: Path) -> None:
    model, params = linen_definition()
    config = LoraConfig(rank=4, targets=lora_targets(model, "query", "value", "Dense_0"))
    adapter, losses = train_adapter(model, params, config, 30)
    assert losses[-1] < 0.9 * losses[0]
    assert all(np.abs(pair["b"]).max() > 0 for pair in adapter.layers[0].values())
    loaded = saved_and_loaded(tmp_path, adapter, model)
    name = "base_model.model.ScanCheckpointBlock_0.Dense_0.kernel.1"
    assert load_file(tmp_path / ADAPTER_WEIGHTS)[f"{name}.lora_B.weight"].shape == (256, 4)
    assert_parity(model, params, loaded)
