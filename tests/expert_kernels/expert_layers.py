"""Random experts, and tokens that choose among them, for tests of the kernels."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.expert_kernels.experts import Gate

GATES = {
    "silu": Gate(),
    "gelu": Gate(activation="gelu_tanh"),
    "clamped": Gate(alpha=1.702, limit=0.7, offset=1.0),
}


class Layers(NamedTuple):
    """The stacks gate, up and down, and their biases."""

    stacks: tuple[jax.Array, jax.Array, jax.Array]
    biases: tuple[jax.Array | None, jax.Array | None, jax.Array | None]


def random(seed: int, *shape: int, dtype: str = "float32") -> jax.Array:
    rng = np.random.default_rng([seed, *shape])
    return jnp.asarray(rng.standard_normal(shape).astype(np.float32), dtype)


def plain_layers(
    num_experts: int, model_dim: int, mlp_dim: int, dtype: str, *, has_biases: bool = False
) -> Layers:
    """Experts whose values stay about as large as their inputs."""
    E, D, F = num_experts, model_dim, mlp_dim
    stacks = (
        random(1, E, D, F, dtype=dtype) * D**-0.5,
        random(2, E, D, F, dtype=dtype) * D**-0.5,
        random(3, E, F, D, dtype=dtype) * F**-0.5,
    )
    if not has_biases:
        return Layers(stacks, (None, None, None))
    biases = (
        random(4, E, F, dtype=dtype),
        random(5, E, F, dtype=dtype),
        random(6, E, D, dtype=dtype),
    )
    return Layers(stacks, biases)


def choices(
    num_tokens: int, model_dim: int, num_experts: int, k: int, dtype: str = "float32"
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Tokens [T, D], their experts [T, k] and weights [T, k]; the last expert is never chosen."""
    rng = np.random.default_rng([num_tokens, num_experts, k])
    most = max(num_experts - 1, k)
    ids = np.stack([rng.permutation(most)[:k] for _ in range(num_tokens)]).astype(np.int32)
    x = random(7, num_tokens, model_dim, dtype=dtype)
    weights = rng.uniform(0.1, 1, (num_tokens, k)).astype(np.float32)
    return x, jnp.asarray(ids), jnp.asarray(weights)
