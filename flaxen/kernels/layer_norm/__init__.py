"""Layer norm, https://arxiv.org/abs/1607.06450."""

from __future__ import annotations

from jaxtyping import Array, Float

from flaxen.kernels.backend import Backend, find_implementation, implementations
from flaxen.kernels.layer_norm import cpu, gpu_invariant, reference

IMPLEMENTATIONS = implementations(
    reference.layer_norm,
    {Backend.CPU: cpu.layer_norm, Backend.GPU_INVARIANT: gpu_invariant.layer_norm},
)


def layer_norm(
    x: Float[Array, "*B D"],
    weight: Float[Array, D],
    bias: Float[Array, D] | None,
    eps: float,
    *,
    backend: Backend,
) -> Float[Array, "*B D"]:
    """Shifts x to mean 0 and scales it to variance 1 over its last axis, then weight and bias.

    Args:
      x: [..., D].
      weight: [D].
      bias: [D], or None for none.
      eps: added to the variance, above 0.
      backend: what computes.

    Returns:
      [..., D] in x's dtype. All is computed in float32, from weight and bias rounded to x's dtype,
      and rounded to x's dtype once, at the end.
    """
    return find_implementation("layer_norm", IMPLEMENTATIONS, backend)(x, weight, bias, eps)
