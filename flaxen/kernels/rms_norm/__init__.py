"""Root-mean-square norm, https://arxiv.org/abs/1910.07467."""

from __future__ import annotations

from jaxtyping import Array, Float

from flaxen.kernels.rms_norm import cpu, reference


def rms_norm(x: Float[Array, "*B D"], weight: Float[Array, D], eps: float) -> Float[Array, "*B D"]:
    """Scales x to unit root mean square over its last axis, then by the weight.

    Args:
      x: [..., D].
      weight: [D].
      eps: added to the mean square, above 0.

    Returns:
      [..., D] in x's dtype. The norm is computed in float32 and rounded to x's dtype before it is
      multiplied by the weight.
    """
    if cpu.runs(x):
        return cpu.rms_norm(x, weight, eps)
    return reference.rms_norm(x, weight, eps)
