"""Sampling by the C++ kernel."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxen.kernels import cpu_library


def sample(
    logits: jax.Array,
    temperature: jax.Array,
    top_k: jax.Array,
    top_p: jax.Array,
    min_p: jax.Array,
    seed: jax.Array,
    position: jax.Array,
    active: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """See flaxen.token_sampling.sample."""
    num_rows = logits.shape[:1]
    results = (
        jax.ShapeDtypeStruct(num_rows, jnp.int32),
        jax.ShapeDtypeStruct(num_rows, jnp.bool_),
    )
    call = cpu_library.kernel("sample", results)
    tokens, finite = call(logits, temperature, top_k, top_p, min_p, seed, position, active)
    return tokens, finite
