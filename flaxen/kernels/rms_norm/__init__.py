"""Root-mean-square norm, https://arxiv.org/abs/1910.07467."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def rms_norm(x: Float[Array, "*B D"], weight: Float[Array, D], eps: float) -> Float[Array, "*B D"]:
    """Scales x to unit root mean square over its last axis, then by the weight.

    Args:
      x: [..., D].
      weight: [D].
      eps: added to the mean square, above 0.

    Returns:
      [..., D] in x's dtype; the norm itself is computed in float32.
    """
    x32 = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return (x32 * scale).astype(x.dtype) * jnp.broadcast_to(weight.astype(x.dtype), x.shape)
