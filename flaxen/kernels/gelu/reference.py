"""GELU in plain jnp."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def gelu(x: Float[Array, "*B D"], is_tanh: bool) -> Float[Array, "*B D"]:
    """See flaxen.kernels.gelu.gelu."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=is_tanh).astype(x.dtype)
