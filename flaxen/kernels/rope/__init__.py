"""The rotation of rotary position embedding, https://arxiv.org/abs/2104.09864.

Deliberately does not know where the angles come from.
"""

from __future__ import annotations

from jaxtyping import Array, Float

from flaxen.kernels.rope import cpu, reference


def apply_rope(
    x: Float[Array, "*B heads H"],
    cos: Float[Array, "*B 1 half"],
    sin: Float[Array, "*B 1 half"],
) -> Float[Array, "*B heads H"]:
    """Rotates the pairs (i, i + H/2) of x by the angles of the tables, in float32.

    Args:
      x: [..., heads, H], H even.
      cos: float32 [..., 1, H/2], cosines.
      sin: float32 [..., 1, H/2], sines.

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
    if cpu.runs(x, cos, sin):
        return cpu.apply_rope(x, cos, sin)
    return reference.apply_rope(x, cos, sin)
