"""Layers stacked in arrays, of which Python's own loop takes one after the other: `stack[3]`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flaxen
from flaxen.models.adapters import lora_targets
from tests.bridges.training import assert_parity, needs_kernels
from tests.bridges.words import VOCAB_SIZE
from tests.weights.adapters.made import random_adapter

D, LAYERS = 64, 2


def forward(params: Any, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    x = params["embed"][tokens]
    for index in range(LAYERS):
        p = {name: stack[index] for name, stack in params["layers"].items()}
        h = x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5)
        q, k, v = ((h @ p[name]).reshape(*x.shape[:2], 4, D // 4) for name in ("q", "k", "v"))
        x = x + flaxen.attend(q, k, v).reshape(x.shape) @ p["o"]
    logits: jax.Array = x @ params["embed"].T
    return logits


@needs_kernels
def test_each_layer_is_packed_and_adapted_without_a_bit_of_difference() -> None:
    rng = np.random.default_rng(0)

    def random(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[-2]), jnp.float32)

    params = {
        "embed": random(VOCAB_SIZE, D) * 8,
        "layers": {name: random(LAYERS, D, D) for name in "qkvo"},
    }
    model = flaxen.from_function(forward, params, max_position=128)
    assert all(spec.matrix.layers == 0 for spec in model.param_specs["layers"].values())
    targets = lora_targets(model)
    assert targets[:2] == ("['layers']['k'][0]", "['layers']['k'][1]")
    assert len(targets) == LAYERS * 4
    assert_parity(model, params, random_adapter(model, targets=targets))
