"""The rotation of rotary position embedding, https://arxiv.org/abs/2104.09864.

Deliberately does not know where the angles come from.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flaxen.kernels.backend import Backend, find_implementation, implementations
from flaxen.kernels.rope import cpu, reference

# It sums nothing: XLA's is invariant on a GPU too.
IMPLEMENTATIONS = implementations(reference.apply_rope, {Backend.CPU: cpu.apply_rope})


def apply_rope(
    x: Float[Array, "*B heads H"],
    cos: Float[Array, "*B 1 half"],
    sin: Float[Array, "*B 1 half"],
    *,
    interleaved: bool = False,
    backend: Backend,
) -> Float[Array, "*B heads H"]:
    """Rotates the first R numbers of each head in pairs, by the angles of the tables, in float32.

    Args:
      x: [..., heads, H].
      cos: float32 [..., 1, R/2], cosines.
      sin: float32 [..., 1, R/2], sines.
      interleaved: the pairs are (2i, 2i + 1); otherwise (i, i + R/2).
      backend: what computes.

    Returns:
      [..., heads, H] in x's dtype.

    Raises:
      ValueError: a head has fewer numbers than the tables rotate.
    """
    head_dim, half = x.shape[-1], cos.shape[-1]
    if head_dim < 2 * half:
        raise ValueError(
            f"rope rotates pairs, but {half} angles are more than half of a head of {head_dim}: "
            "make the tables for this head_dim"
        )
    # Whatever the order of the pairs, one implementation multiplies: the rest moves numbers.
    turned, rest = x[..., : 2 * half], x[..., 2 * half :]
    if interleaved:
        turned = _transposed_pairs(turned, half, 2)
    out: jax.Array = find_implementation("rope", IMPLEMENTATIONS, backend)(turned, cos, sin)
    if interleaved:
        out = _transposed_pairs(out, 2, half)
    return jnp.concatenate([out, rest], axis=-1) if rest.shape[-1] else out


def _transposed_pairs(x: jax.Array, rows: int, columns: int) -> jax.Array:
    """[..., rows * columns] as rows of columns, transposed."""
    return x.reshape(*x.shape[:-1], rows, columns).swapaxes(-1, -2).reshape(x.shape)
