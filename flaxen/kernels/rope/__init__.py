"""The rotation of rotary position embedding, https://arxiv.org/abs/2104.09864.

Deliberately does not know where the angles come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
from jaxtyping import Array, Float

from flaxen.kernels.backend import Backend, find_implementation
from flaxen.kernels.rope import cpu, reference

IMPLEMENTATIONS: Mapping[Backend, Callable[[jax.Array, jax.Array, jax.Array], jax.Array]] = {
    Backend.REFERENCE: reference.apply_rope,
    Backend.CPU: cpu.apply_rope,
    Backend.GPU: reference.apply_rope,
    Backend.GPU_INVARIANT: reference.apply_rope,  # it sums nothing
    Backend.TPU: reference.apply_rope,
    Backend.TPU_TOKAMAX: reference.apply_rope,
}


def apply_rope(
    x: Float[Array, "*B heads H"],
    cos: Float[Array, "*B 1 half"],
    sin: Float[Array, "*B 1 half"],
    *,
    backend: Backend,
) -> Float[Array, "*B heads H"]:
    """Rotates the pairs (i, i + H/2) of x by the angles of the tables, in float32.

    Args:
      x: [..., heads, H], H even.
      cos: float32 [..., 1, H/2], cosines.
      sin: float32 [..., 1, H/2], sines.
      backend: what computes.

    Returns:
      [..., heads, H] in x's dtype.

    Raises:
      ValueError: the tables do not have H/2 angles.
    """
    head_dim, half = x.shape[-1], cos.shape[-1]
    if head_dim != 2 * half:
        raise ValueError(
            f"rope rotates pairs, but {half} angles are not half of a head of {head_dim}: make the "
            "tables for this head_dim"
        )
    return find_implementation("rope", IMPLEMENTATIONS, backend)(x, cos, sin)
