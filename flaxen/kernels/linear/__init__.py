"""Linear layer. Deliberately does not know what the weight belongs to."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def linear(
    x: Float[Array, "*B I"], weight: Float[Array, "I O"], bias: Float[Array, O] | None = None
) -> Float[Array, "*B O"]:
    """x @ weight + bias, summed in float32.

    Args:
      x: [..., I] activations.
      weight: [I, O].
      bias: [O] or None.

    Returns:
      [..., O] in x's dtype.
    """
    out = jnp.einsum("...I,IO->...O", x, weight, preferred_element_type=jnp.float32)
    if bias is not None:
        out = out + jnp.broadcast_to(bias.astype(jnp.float32), out.shape)
    return out.astype(x.dtype)
