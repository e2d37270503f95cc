"""Definitions compute with quantized weights on every backend, in stacked layers too."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxen
from flaxen.definitions.definition import Definition
from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import QuantizedLinear
from flaxen.kernels.linear.weight import num_bytes
from flaxen.models.logits import logits
from flaxen.weights.form import Form
from tests.bridges.words import VOCAB_SIZE, byte_tokenizer
from tests.models.plain import plain_params

FLOAT32 = jnp.dtype("float32")
D, H = 64, 16
MATRICES = ("wq", "wk", "wv", "wo")


def make_weights(is_stacked: bool) -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def random(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(D), jnp.float32)

    layers = [{"norm": jnp.ones(D), **{name: random(D, D) for name in MATRICES}} for _ in range(2)]
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *layers)
    return {"embed": random(VOCAB_SIZE, D) * 8, "layers": stacked if is_stacked else layers}


def forward(weights: dict[str, Any], tokens: jax.Array, positions: jax.Array) -> jax.Array:
    def block(x: jax.Array, layer: dict[str, jax.Array]) -> tuple[jax.Array, None]:
        h = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5)
        h = h * jnp.broadcast_to(layer["norm"], h.shape)
        q, k, v = ((h @ layer[name]).reshape(*h.shape[:-1], -1, H) for name in MATRICES[:3])
        return x + flaxen.attend(q, k, v).reshape(h.shape) @ layer["wo"], None

    x = weights["embed"][tokens]
    if isinstance(weights["layers"], dict):
        x, _ = jax.lax.scan(block, x, weights["layers"])
    else:
        for layer in weights["layers"]:
            x, _ = block(x, layer)
    return x @ weights["embed"].T


@pytest.mark.parametrize(
    ("backend", "quantization", "is_stacked"),
    [
        (Backend.REFERENCE, "int4", False),
        (Backend.GPU, "int8", True),
        (Backend.TPU, "int4", False),
    ],
)
def test_logits_are_those_of_the_values(
    backend: Backend, quantization: Any, is_stacked: bool
) -> None:
    weights = make_weights(is_stacked)
    model = flaxen.from_function(forward, weights, max_position=64)
    definition = Definition(model=model, params=weights, tokenizer=byte_tokenizer())
    params = definition.load_params(FLOAT32, backend=backend, quantization=quantization)
    leaves = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, QuantizedLinear))
    formats = [leaf.format for leaf in leaves if isinstance(leaf, QuantizedLinear)]
    assert sorted(formats) == sorted([*(quantization,) * 8, "int8"])  # a table has eight bits
    form = Form(dtype=FLOAT32, backend=backend, quantization=quantization)
    assert definition.num_param_bytes(form) == num_bytes(params)
    tokens = jnp.arange(12, dtype=jnp.int32)[None]
    ours = jax.jit(functools.partial(logits, model.on(backend)))(params, tokens)
    values = plain_params(model.param_specs, params)
    theirs = jax.jit(functools.partial(logits, model.on(Backend.REFERENCE)))(values, tokens)
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
