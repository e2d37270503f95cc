"""The rotation of rope in plain jnp."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def apply_rope(
    x: Float[Array, "*B heads H"],
    cos: Float[Array, "*B 1 half"],
    sin: Float[Array, "*B 1 half"],
    *,
    interleaved: bool = False,
) -> Float[Array, "*B heads H"]:
    """See flaxen.kernels.rope.apply_rope."""
    num_rotated = 2 * cos.shape[-1]
    turned, rest = x[..., :num_rotated].astype(jnp.float32), x[..., num_rotated:]
    first, second = (
        (turned[..., ::2], turned[..., 1::2]) if interleaved else jnp.split(turned, 2, axis=-1)
    )
    pair = first * cos - second * sin, second * cos + first * sin
    rotated = (
        jnp.stack(pair, axis=-1).reshape(turned.shape)
        if interleaved
        else jnp.concatenate(pair, axis=-1)
    )
    return jnp.concatenate([rotated.astype(x.dtype), rest], axis=-1)
