"""Experts on a mesh: each device has a part of each expert's hidden values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels.backend import Backend
from flaxen.kernels.linear.quantized import QuantizedLinear
from flaxen.models.layout import check_layout, lay_params, param_shardings
from flaxen.models.model import Params
from tests.mesh.meshes import placement
from tests.models.golden import logits_of
from tests.models.test_expert_layers import TOKENS
from tests.models.tiny_experts import MODEL, params_for

PARAMS = params_for(Backend.REFERENCE)


def logits(params: Params) -> np.ndarray:
    return logits_of(MODEL, params, TOKENS)


@pytest.mark.parametrize("mesh", ["tensor=2", "fsdp=2"])
def test_a_mesh_gives_what_one_device_gives(mesh: str) -> None:
    laid = jax.device_put(PARAMS, param_shardings(MODEL.param_specs, placement(mesh)))
    up = laid["layers"][1]["w_experts_up"]
    assert up.sharding.shard_shape(up.shape) == ((5, 24, 10) if "tensor" in mesh else (5, 12, 20))
    expected = logits(PARAMS)
    np.testing.assert_allclose(logits(laid), expected, atol=1e-5 * np.abs(expected).max())


def test_a_gradient_on_a_mesh_is_one_devices() -> None:
    def loss(params: Params) -> jax.Array:
        layer = params["layers"][2]
        return jnp.sum(jnp.square(logits_in(params))) + 0 * jnp.sum(layer["w_router"])

    def logits_in(params: Params) -> jax.Array:
        from tests.models.golden import hidden_states

        return MODEL.unembed(params, hidden_states(MODEL, params, TOKENS))

    gradient = jax.jit(jax.grad(loss))
    laid = jax.device_put(PARAMS, param_shardings(MODEL.param_specs, placement("tensor=2")))
    found, expected = gradient(laid), gradient(PARAMS)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * max(float(jnp.abs(other).max()), 1))


def test_quantized_experts_are_divided_too() -> None:
    rng = np.random.default_rng(0)

    def quantized(shape: tuple[int, ...]) -> QuantizedLinear:
        E, _, O = shape  # noqa: E741
        return QuantizedLinear(
            data=jnp.asarray(rng.integers(-127, 128, shape), jnp.int8),
            scales=jnp.asarray(rng.uniform(0.001, 0.003, (E, 1, O)), jnp.float32),
        )

    layer = {
        name: quantized(leaf.shape) if name.startswith("w_experts") else leaf
        for name, leaf in PARAMS["layers"][1].items()
    }
    params = {**PARAMS, "layers": (PARAMS["layers"][0], layer, PARAMS["layers"][2])}
    laid = lay_params(MODEL.param_specs, params, placement("tensor=2"))
    data = laid["layers"][1]["w_experts_down"].data
    assert data.sharding.shard_shape(data.shape) == (5, 10, 24)
    expected = logits(params)
    np.testing.assert_allclose(logits(laid), expected, atol=1e-5 * np.abs(expected).max())


def test_experts_that_can_not_be_divided_are_refused() -> None:
    with pytest.raises(ValueError, match="rows of the MLP can't be divided over tensor=3"):
        check_layout(MODEL.param_specs, placement("tensor=3"))
