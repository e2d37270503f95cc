"""Root-mean-square norm, https://arxiv.org/abs/1910.07467."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
from jaxtyping import Array, Float

from flaxen.kernels.backend import Backend, find_implementation, implementations
from flaxen.kernels.rms_norm import cpu, gpu_invariant, reference

IMPLEMENTATIONS: Mapping[Backend, Callable[[jax.Array, jax.Array, float], jax.Array]] = (
    implementations(
        reference.rms_norm,
        {Backend.CPU: cpu.rms_norm, Backend.GPU_INVARIANT: gpu_invariant.rms_norm},
    )
)


def rms_norm(
    x: Float[Array, "*B D"], weight: Float[Array, D], eps: float, *, backend: Backend
) -> Float[Array, "*B D"]:
    """Scales x to unit root mean square over its last axis, then by the weight.

    Args:
      x: [..., D].
      weight: [D].
      eps: added to the mean square, above 0.
      backend: what computes.

    Returns:
      [..., D] in x's dtype. The norm is computed in float32 and rounded to x's dtype before it is
      multiplied by the weight.
    """
    return find_implementation("rms_norm", IMPLEMENTATIONS, backend)(x, weight, eps)
