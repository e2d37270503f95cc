"""The rotation of rope in plain jnp."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def apply_rope(
    x: Float[Array, "*B heads H"],
    cos: Float[Array, "*B 1 half"],
    sin: Float[Array, "*B 1 half"],
) -> Float[Array, "*B heads H"]:
    """See flaxen.kernels.rope.apply_rope; all of a head is rotated, and no pair is interleaved."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)
