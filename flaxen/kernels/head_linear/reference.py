"""Each head's own product in plain jnp."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def head_linear(x: jax.Array, weight: jax.Array) -> jax.Array:
    """See flaxen.kernels.head_linear.head_linear."""
    out = jnp.einsum("...NI,NIO->...NO", x, weight, preferred_element_type=jnp.float32)
    return out.astype(x.dtype)
