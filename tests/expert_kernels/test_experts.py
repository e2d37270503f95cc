"""Experts in plain jnp = each token through its experts one by one; what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from flaxen.expert_kernels.experts import ExpertsSpec, Gate, experts
from flaxen.kernels.backend import Backend
from tests.expert_kernels.expert_layers import GATES, Layers, choices, plain_layers, random


def one_by_one(
    x: np.ndarray, ids: np.ndarray, weights: np.ndarray, layers: Layers, spec: ExpertsSpec
) -> np.ndarray:
    """In float64, with the biases of the layers."""
    out = np.zeros(x.shape)
    gate, up, down = (np.asarray(each, np.float64) for each in layers.stacks)
    biases = [None if b is None else np.asarray(b, np.float64) for b in layers.biases]
    for t, row in enumerate(x):
        for e, weight in zip(ids[t], weights[t], strict=True):
            h = row * weight if spec.scales_inputs else row
            g, u = h @ gate[e], h @ up[e]
            if biases[0] is not None:
                g, u = g + biases[0][e], u + biases[1][e]
            hidden = np.asarray(spec.gate(jnp.asarray(g), jnp.asarray(u)))
            y = hidden @ down[e]
            if biases[2] is not None:
                y = y + biases[2][e]
            out[t] += y if spec.scales_inputs else weight * y
    return out


@pytest.mark.parametrize("gate", GATES.values(), ids=list(GATES))
@pytest.mark.parametrize("scales_inputs", [False, True])
@pytest.mark.parametrize("has_biases", [False, True])
def test_equals_each_token_by_itself(gate: Gate, scales_inputs: bool, has_biases: bool) -> None:
    layers = plain_layers(5, 24, 40, "float32", has_biases=has_biases)
    x, ids, weights = choices(17, 24, 5, 3)
    spec = ExpertsSpec(gate=gate, scales_inputs=scales_inputs)
    found = experts(
        x, ids, weights, layers.stacks, layers.biases, spec=spec, backend=Backend.REFERENCE
    )
    expected = one_by_one(np.asarray(x), np.asarray(ids), np.asarray(weights), layers, spec)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_padding_and_other_ids_have_no_experts() -> None:
    layers = plain_layers(4, 16, 32, "float32", has_biases=True)
    x, ids, weights = choices(6, 16, 4, 2)
    x = x.at[3].set(0)
    residual = random(5, 6, 16)
    run = jax.jit(lambda x, ids: experts(
        x, ids, weights, layers.stacks, layers.biases, residual=residual, backend=Backend.REFERENCE
    ))  # fmt: skip
    found = run(x, ids.at[4].set(-1).at[5].set(4))
    np.testing.assert_array_equal(found[3:], residual[3:])
    assert not np.array_equal(found[0], residual[0])


def test_gradients_equal_finite_differences() -> None:
    layers = plain_layers(3, 8, 16, "float32", has_biases=True)
    x, ids, weights = choices(7, 8, 3, 2)

    def loss(x: jax.Array, weights: jax.Array, stacks: tuple[jax.Array, ...]) -> jax.Array:
        x, weights, stacks = jax.tree.map(jnp.asarray, (x, weights, stacks))
        out = experts(
            x,
            ids,
            weights,
            stacks,
            layers.biases,
            backend=Backend.REFERENCE,  # type: ignore[arg-type]
        )
        return jnp.sum(jnp.sin(out))

    check_grads(loss, (x, weights, layers.stacks), order=1, modes=["rev"], atol=1e-2)


def test_sizes_that_do_not_match_are_refused() -> None:
    layers = plain_layers(3, 8, 16, "float32")
    x, ids, weights = choices(2, 9, 3, 2)
    with pytest.raises(ValueError, match=r"experts for inputs of 9 need gate and up \[E, 9, F\]"):
        experts(x, ids, weights, layers.stacks, backend=Backend.REFERENCE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"activation": "relu"}, "'relu' is not supported in experts: use one of silu, gelu_tanh"),
        ({"alpha": 0.0}, "alpha and limit must be above 0, got 0.0 and None"),
        ({"limit": -1.0}, "alpha and limit must be above 0, got 1.0 and -1.0"),
        ({"activation": "gelu_tanh", "offset": 1.0}, "alpha and offset belong to silu"),
    ],
)
def test_gates_that_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Gate(**fields)  # type: ignore[arg-type]
