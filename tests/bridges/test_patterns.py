"""What of a definition our kernels do at once: what is found, what is not, and what it gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxen
from flaxen.bridges.jaxpr.patterns import Pattern, find_patterns
from flaxen.kernels.backend import Backend
from flaxen.kernels.choice import choose_backend
from flaxen.models import attention_impls
from flaxen.models.attention import attend
from flaxen.models.params import compute_params
from tests.bridges.near_patterns import CASES, D, H, N, rotate
from tests.bridges.words import VOCAB_SIZE

F, K, NUM_LAYERS = 128, 2, 2
BACKEND = choose_backend()
needs_kernels = pytest.mark.skipif(BACKEND is not Backend.CPU, reason="the library was not built")


def make_weights() -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def random(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[0]), jnp.float32)

    def layer() -> dict[str, jax.Array]:
        sizes = {"q": (D, N * H), "k": (D, K * H), "v": (D, K * H), "o": (N * H, D)}
        sizes |= {"gate": (D, F), "up": (D, F), "down": (F, D)}
        norms = {name: 1 + random(D) / 4 for name in ("norm1", "norm2")}
        return norms | {name: random(*size) for name, size in sizes.items()}

    layers = tuple(layer() for _ in range(NUM_LAYERS))
    return {"embed": random(VOCAB_SIZE, D) * 4, "layers": layers, "norm": 1 + random(D) / 4}


def norm(x: jax.Array, weight: jax.Array) -> jax.Array:
    """RMS norm as transformers writes it."""
    wide = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + 1e-5)
    return weight[None, None] * (wide * scale).astype(x.dtype)


def tables(positions: jax.Array, dtype: Any) -> tuple[jax.Array, jax.Array]:
    frequencies = 100.0 ** -(jnp.arange(H // 2, dtype=jnp.float32) / (H // 2))
    angles = jnp.einsum("...,H->...H", positions.astype(jnp.float32), frequencies)
    angles = jnp.concatenate([angles, angles], axis=-1)[..., None, :]
    return jnp.cos(angles).astype(dtype), jnp.sin(angles).astype(dtype)


def llama(weights: dict[str, Any], tokens: jax.Array, positions: jax.Array) -> jax.Array:
    x = weights["embed"][tokens]
    angles = tables(positions, x.dtype)
    for p in weights["layers"]:
        h = norm(x, p["norm1"])
        q, k, v = (
            (h @ p[name]).reshape(*x.shape[:-1], heads, H)
            for name, heads in (("q", N), ("k", K), ("v", K))
        )
        out = attend(rotate(q, *angles), rotate(k, *angles), v)
        x = x + out.reshape(*x.shape[:-1], N * H) @ p["o"]
        h = norm(x, p["norm2"])
        x = x + (jax.nn.silu(h @ p["gate"]) * (h @ p["up"])) @ p["down"]
    return norm(x, weights["norm"]) @ weights["embed"].T


def kinds(function: Callable[..., Any], *args: Any) -> Counter[str]:
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    steps = find_patterns(jaxpr.eqns, jaxpr.outvars)
    return Counter(step.kind for step in steps if isinstance(step, Pattern))


def kernels(function: Callable[..., Any], *args: Any) -> Counter[str]:
    found = kinds(function, *args)
    del found["rounded"]  # is for no kernel
    return found


TOKENS, POSITIONS = jnp.arange(24)[None] * 9 % VOCAB_SIZE, jnp.arange(24)[None]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_layer_like_our_decoders_is_recognised(dtype: Any) -> None:
    weights = jax.tree.map(lambda leaf: leaf.astype(dtype), make_weights())
    assert kernels(llama, weights, TOKENS, POSITIONS) == {
        "norm": 2 * NUM_LAYERS + 1,
        "gated": NUM_LAYERS,
        "residual": 2 * NUM_LAYERS,
        "rope": 2 * NUM_LAYERS,
    }


@pytest.mark.parametrize(("function", "args"), CASES)
def test_what_is_something_else_is_left_alone(function: Any, args: Any) -> None:
    assert not kernels(function, *args)


def difference(x: jax.Array, y: jax.Array, z: jax.Array) -> jax.Array:
    return x * y - (-(z * y))[None].reshape(x.shape)


@pytest.mark.parametrize(
    ("function", "num"),
    [
        (difference, 2),
        (lambda x, y, z: x * x + jnp.square(y) - z**3, 3),
        (lambda x, y, z: 3 * x + 0.5 * y - -2 * z, 1),  # the others are exact
        (lambda x, y, z: x * y * z, 0),
        (lambda x, y, z: jnp.sin(x * y) + z, 0),
        (lambda x, y, z: jnp.int32(x) * jnp.int32(y) + 1, 0),
    ],
)
def test_only_products_in_sums_are_kept_apart(function: Any, num: int) -> None:
    assert kinds(function, *[jnp.arange(4.0)] * 3)["rounded"] == num


def scores_of(model: flaxen.Model, params: Any) -> jax.Array:
    hidden, _ = model.forward(
        params, TOKENS, POSITIONS, attention_impls.causal(None, model.backend), (None,) * NUM_LAYERS
    )
    return model.unembed(params, hidden)


@needs_kernels
def test_scores_and_gradients_are_the_definitions() -> None:
    weights = make_weights()
    model = flaxen.from_function(llama, weights, max_position=128)
    aim = jnp.asarray(np.random.default_rng(1).standard_normal((1, 24, VOCAB_SIZE)), jnp.float32)

    def ours(weights: Any) -> jax.Array:
        packed = compute_params(
            model.param_specs, weights, dtype=jnp.dtype(jnp.float32), backend=Backend.CPU
        )
        return scores_of(model, packed)

    def theirs(weights: Any) -> jax.Array:
        return llama(weights, TOKENS, POSITIONS)

    np.testing.assert_allclose(ours(weights), theirs(weights), atol=1e-4, rtol=1e-4)
    one, other = (
        jax.jit(jax.grad(lambda weights, f=f: jnp.mean((f(weights) - aim) ** 2)))(weights)
        for f in (ours, theirs)
    )
    for found, expected in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        largest = float(jnp.abs(expected).max())
        assert largest > 1e-3
        np.testing.assert_allclose(found, expected, atol=1e-4 * largest)
