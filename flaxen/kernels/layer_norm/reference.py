"""The layer norm in plain jnp."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def layer_norm(
    x: Float[Array, "*B D"], weight: Float[Array, D], bias: Float[Array, D] | None, eps: float
) -> Float[Array, "*B D"]:
    """See flaxen.kernels.layer_norm.layer_norm."""
    x32 = x.astype(jnp.float32)
    centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + eps)
    out = centred * scale * _wide(weight, x)
    return (out if bias is None else out + _wide(bias, x)).astype(x.dtype)


def _wide(vector: jax.Array, x: jax.Array) -> jax.Array:
    """The vector, rounded to x's dtype, as float32 in x's shape."""
    return jnp.broadcast_to(vector.astype(x.dtype).astype(jnp.float32), x.shape)
