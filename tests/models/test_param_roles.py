"""What each consumer of roles does with a parameter of experts, beside matrices and vectors."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.definitions.definition import Definition
from flaxen.kernels.backend import Backend
from flaxen.kernels.linear.packed import PackedLinear
from flaxen.models.adapters import LoraConfig, adapter_shapes, lora_targets
from flaxen.models.decoder import decoder
from flaxen.models.model import Model
from flaxen.models.param_spec import Matrix, ParamSpec
from flaxen.models.params import compute_params, is_spec
from flaxen.training.full import full, initial_params
from flaxen.training.metrics import flops_per_token
from flaxen.training.optimizer import OptimizerConfig, make_optimizer
from tests.models.features import with_features
from tests.models.plain import plain_params
from tools.decoders import uniform_decoder

CONFIG = uniform_decoder(
    vocab_size=40, model_dim=32, mlp_dim=48, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8
)
EXPERTS = ParamSpec(shape=(3, 32, 48), axes=("experts", "model", "mlp"), role="experts")


def with_experts(model: Model) -> Model:
    specs = model.param_specs
    layers = tuple({**layer, "w_up": EXPERTS} for layer in specs["layers"])
    return dataclasses.replace(model, param_specs={**specs, "layers": layers})


FLOAT32 = jnp.dtype("float32")
MODEL = with_experts(decoder(CONFIG))


def test_only_matrices_and_tables_are_packed() -> None:
    weight = Matrix(inputs=(0,), outputs=(1,))
    with pytest.raises(ValueError, match=r"of the role experts can't be packed: its `matrix` must"):
        dataclasses.replace(EXPERTS, matrix=weight)
    with pytest.raises(ValueError, match="of the role vector can't be packed"):
        ParamSpec(shape=(2, 2), axes=(None, None), role="vector", matrix=weight)
    params = initial_params(MODEL, 0)
    packed = compute_params(
        MODEL.param_specs, params, dtype=jnp.dtype("float32"), backend=Backend.CPU
    )
    layer = packed["layers"][0]
    assert isinstance(layer["w_gate"], PackedLinear)
    assert isinstance(layer["w_up"], jax.Array)
    jax.tree.map(np.testing.assert_array_equal, plain_params(MODEL.param_specs, packed), params)


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_experts_are_not_quantized(quantization: Any) -> None:
    params = initial_params(MODEL, 0)
    definition = Definition(model=MODEL, params=params, tokenizer="unused")
    loaded = definition.load_params(
        jnp.dtype("float32"), backend=Backend.CPU, quantization=quantization
    )
    assert loaded["layers"][1]["w_gate"].format == quantization
    np.testing.assert_array_equal(loaded["layers"][1]["w_up"], params["layers"][1]["w_up"])


def test_adapters_go_beside_matrices_alone() -> None:
    assert lora_targets(MODEL) == ("wq", "wk", "wv", "wo", "w_gate", "w_down")
    with pytest.raises(ValueError, match="the model's layers have no w_up to adapt"):
        adapter_shapes(MODEL, LoraConfig())
    assert "w_up" in lora_targets(decoder(CONFIG))


def test_experts_decay_and_are_not_orthogonalised() -> None:
    params = initial_params(MODEL, 0)
    gradients = jax.tree.map(lambda leaf: jnp.cos(1 + 99 * leaf), params)

    def update(name: Any, decay: float) -> Any:
        config = OptimizerConfig(name=name, weight_decay=decay, max_grad_norm=None)
        optimizer = make_optimizer(config)(lambda params: MODEL.param_specs)
        return optimizer.update(gradients, optimizer.init(params), params)[0]["layers"][0]

    muon, adamw, still = update("muon", 0.1), update("adamw", 0.1), update("adamw", 0.0)
    np.testing.assert_array_equal(muon["w_up"], adamw["w_up"])
    assert (np.asarray(muon["w_gate"]) != np.asarray(adamw["w_gate"])).any()
    assert (np.asarray(adamw["w_up"]) != np.asarray(still["w_up"])).any()


def test_experts_count_as_if_each_token_needed_all() -> None:
    def weights(model: Model) -> int:
        return sum(
            int(np.prod(spec.shape))
            for spec in jax.tree.leaves(model.param_specs["layers"], is_leaf=is_spec)
            if spec.role != "vector"
        )

    plain = decoder(CONFIG)
    trainable = full(plain, dtype=FLOAT32)
    difference = flops_per_token(MODEL, trainable) - flops_per_token(plain, trainable)
    assert difference == 6 * (weights(MODEL) - weights(plain))


def test_how_parameters_start_is_said_by_their_specs() -> None:
    biased = decoder(with_features(CONFIG, biases=("wq",), qk_norm=True))
    layer = initial_params(biased, 0)["layers"][0]
    for name in ("attn_norm", "mlp_norm", "q_norm", "k_norm"):
        assert (layer[name] == 1).all()
    assert (layer["bq"] == 0).all()
    for name in ("wo", "w_down"):  # 0.02 / sqrt(2 * 2 layers)
        assert 0.009 < float(layer[name].std()) < 0.011
    assert 0.018 < float(layer["w_up"].std()) < 0.022
