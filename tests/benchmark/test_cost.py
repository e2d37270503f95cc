"""What a step must read and multiply, of a model small enough to count by hand."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxen
from flaxen.benchmark.cost import model_cost
from flaxen.benchmark.ideal import CacheLayer
from flaxen.kernels.linear.packed import PackedLinear, pack
from flaxen.models.decoder import decoder
from flaxen.models.param_spec import ParamSpec
from tests.models.tiny_experts import MODEL as EXPERTS
from tools.decoders import uniform_decoder

V, D, F, N, K, H = 48, 32, 64, 2, 1, 16
LAYER = D * N * H + 2 * D * K * H + N * H * D + 3 * D * F  # elements of a layer's matrices
NORMS = 2 * D


def model(tied: bool) -> Any:
    return decoder(
        uniform_decoder(
            vocab_size=V, model_dim=D, mlp_dim=F, num_layers=2, num_heads=N, num_kv_heads=K,
            head_dim=H, windows=(None, 8), tied_embeddings=tied,
        )
    )  # fmt: skip


def params(specs: Any, make: Any) -> Any:
    return jax.tree.map(make, specs, is_leaf=lambda node: isinstance(node, ParamSpec))


def int4(spec: ParamSpec) -> jax.Array | PackedLinear:
    """A matrix of four-bit numbers with a float16 scale for 32 of them: 4.5 bits each."""
    if len(spec.shape) == 1:
        return jnp.zeros(spec.shape, jnp.bfloat16)
    num_inputs, num_outputs = spec.shape if spec.shape[0] != V else spec.shape[::-1]
    tiles = num_outputs // 16
    return PackedLinear(
        data=jnp.zeros((tiles, num_inputs // 8, 16), jnp.uint32),
        scales=jnp.zeros((tiles, num_inputs // 32, 16), jnp.float16),
        format="int4",
        num_inputs=num_inputs,
        num_outputs=num_outputs,
        group=32,
        zero=8,
    )


@pytest.mark.parametrize("tied", [True, False])
def test_plain_weights(tied: bool) -> None:
    definition = model(tied)
    weights = params(definition.param_specs, lambda spec: jnp.zeros(spec.shape, jnp.float32))
    cost = model_cost(definition, weights, cache_itemsize=2)
    # Of an embedding that is not the unembedding too, only the rows of the tokens are read.
    assert cost.weight_bytes == 4 * (2 * (LAYER + NORMS) + D + D * V)
    assert (cost.layer_params, cost.unembed_params) == (2 * LAYER, D * V)
    assert cost.cache_layers == (
        CacheLayer(bytes_per_token=2 * K * H * 2, window=None),
        CacheLayer(bytes_per_token=2 * K * H * 2, window=8),
    )


def test_packed_weights_count_what_they_take() -> None:
    definition = model(tied=True)
    cost = model_cost(definition, params(definition.param_specs, int4), cache_itemsize=2)
    assert cost.weight_bytes == (2 * LAYER + D * V) * 4.5 / 8 + 2 * (2 * NORMS + D)
    assert (cost.layer_params, cost.unembed_params) == (2 * LAYER, D * V)


def test_padding_is_read_too() -> None:
    assert pack(jnp.zeros((20, 17), jnp.bfloat16)).nbytes == 32 * 32 * 2


def test_a_definition_counts_by_what_its_parameters_do() -> None:
    """Named as nothing of ours; its embedding is not the unembedding, whose rows alone are read."""

    def function(weights: Any, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        x = (weights["words"][tokens] * weights["scale"][None, None]) @ weights["mix"]
        heads = x[..., None, :]
        return flaxen.attend(heads, heads, heads)[..., 0, :] @ weights["scores"]

    shapes = {"words": (V, D), "scale": (D,), "mix": (D, D), "scores": (D, V)}
    rng = np.random.default_rng(0)
    weights = {
        name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()
    }
    definition = flaxen.from_function(function, weights, max_position=32)
    cost = model_cost(definition, weights, cache_itemsize=4)
    assert cost.weight_bytes == 4 * (D + D * D + D * V)
    assert (cost.layer_params, cost.unembed_params) == (D * D, D * V)
    assert cost.cache_layers == (CacheLayer(bytes_per_token=2 * D * 4, window=None),)


def test_experts_are_counted_by_the_share_of_their_tokens() -> None:
    weights = params(EXPERTS.param_specs, lambda spec: jnp.zeros(spec.shape, jnp.bfloat16))
    cost = model_cost(EXPERTS, weights, cache_itemsize=2)
    assert [each.share for each in cost.experts] == [2 / 5] * 3 + [3 / 5] * 3
    stacks = [
        spec.shape
        for layer in EXPERTS.param_specs["layers"]
        for name, spec in layer.items()
        if name.startswith("w_experts_")
    ]
    assert [each.num_bytes for each in cost.experts] == [2 * math.prod(shape) for shape in stacks]
    assert cost.held_bytes - cost.weight_bytes == sum(each.num_bytes for each in cost.experts) > 0
