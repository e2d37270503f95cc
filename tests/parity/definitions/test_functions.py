"""Functions of plain JAX: served, and with adapters, without a bit of difference."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxen
from examples import plain_jax
from flaxen.bridges.jaxpr.interpret import evaluate
from flaxen.bridges.jaxpr.run import Run
from flaxen.models import attention_impls
from flaxen.models.adapters import LoraConfig, lora_targets
from flaxen.models.cache import attention_cache
from tests.bridges import test_function as in_a_class
from tests.bridges import test_layers_in_a_list as in_a_list
from tests.bridges import test_patterns as patterns
from tests.bridges.training import BACKEND, assert_parity, needs_kernels, train_adapter
from tests.bridges.words import VOCAB_SIZE
from tests.weights.adapters.made import random_adapter

pytestmark = needs_kernels


@pytest.mark.parametrize(
    ("dtype", "options"),
    [("float32", {}), ("bfloat16", {"window": 12, "scale": 0.3, "softcap": 5.0})],
)
def test_a_tree_of_a_class_of_its_own(dtype: str, options: dict[str, Any]) -> None:
    """Options of attention are the kernel's, so that each is in one dtype only."""
    weights = in_a_class.make_weights()

    def definition(weights: Any, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        return in_a_class.transformer(weights, tokens, positions, **options)

    model = flaxen.from_function(definition, weights, max_position=128)
    head_dim = in_a_class.DIM // in_a_class.HEADS
    spec = attention_cache(in_a_class.KV_HEADS, head_dim, options.get("window"))
    assert model.cache_specs == (spec, spec)
    assert_parity(model, weights, dtype=dtype)


def test_a_scan_over_layers_that_has_no_constants() -> None:
    weights = plain_jax.weights(VOCAB_SIZE)
    model = flaxen.from_function(plain_jax.forward, weights, max_position=128)
    assert len(model.cache_specs) == plain_jax.LAYERS
    assert_parity(model, weights)


def test_layers_in_a_list() -> None:
    params = in_a_list.make_params("list")
    model = flaxen.from_function(in_a_list.forward, params, max_position=128)
    assert_parity(model, params)
    assert_parity(model, params, random_adapter(model, targets=lora_targets(model)))


def stacked(params: Any, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    """Layers stacked in arrays, of which Python's own loop takes one after the other."""
    x = params["embed"][tokens]
    for index in range(2):
        p = {name: stack[index] for name, stack in params["layers"].items()}
        h = x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5)
        q, k, v = ((h @ p[name]).reshape(*x.shape[:2], 4, 16) for name in ("q", "k", "v"))
        x = x + flaxen.attend(q, k, v).reshape(x.shape) @ p["o"]
    logits: jax.Array = x @ params["embed"].T
    return logits


def test_each_layer_of_a_stack_is_packed_and_adapted() -> None:
    rng = np.random.default_rng(0)

    def random(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[-2]), jnp.float32)

    layers = {name: random(2, 64, 64) for name in "qkvo"}
    params = {"embed": random(VOCAB_SIZE, 64) * 8, "layers": layers}
    model = flaxen.from_function(stacked, params, max_position=128)
    assert all(spec.matrix.layers == 0 for spec in model.param_specs["layers"].values())
    targets = lora_targets(model)
    assert targets[:2] == ("['layers']['k'][0]", "['layers']['k'][1]")
    assert len(targets) == 2 * 4
    assert_parity(model, params, random_adapter(model, targets=targets))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_patterns_of_a_layer(dtype: str) -> None:
    weights = patterns.make_weights()
    model = flaxen.from_function(patterns.llama, weights, max_position=128)
    assert_parity(model, weights, dtype=dtype)


def test_an_adapter_beside_all_patterns_of_a_layer() -> None:
    weights = patterns.make_weights()
    model = flaxen.from_function(patterns.llama, weights, max_position=128)
    targets = lora_targets(model)
    assert len(targets) == 7 * patterns.NUM_LAYERS
    adapter, losses = train_adapter(model, weights, LoraConfig(rank=4, targets=targets), 30)
    assert losses[-1] < losses[0] - 0.5
    assert_parity(model, weights, adapter)


@pytest.mark.parametrize("num", [1, 2, 16, 100])
def test_products_are_rounded_before_they_are_summed(num: int) -> None:
    x, y, z = np.random.default_rng(0).standard_normal((3, num)).astype(np.float32)
    jaxpr = jax.make_jaxpr(patterns.difference)(x, y, z).jaxpr
    run = Run(
        token_shape=(1, num),
        attend=attention_impls.causal(None, BACKEND),
        cache=(),
        backend=BACKEND,
    )
    (found,) = jax.jit(lambda *args: evaluate(run, jaxpr, (), args))(x, y, z)
    np.testing.assert_array_equal(found, x * y + z * y)
