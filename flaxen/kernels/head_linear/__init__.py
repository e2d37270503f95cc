"""Each head's own product: the inputs of a head are multiplied with a weight of that head alone.

Latent attention makes queries and values with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
from jaxtyping import Array, Float

from flaxen.kernels.backend import Backend, find_implementation
from flaxen.kernels.head_linear import cpu, reference

IMPLEMENTATIONS: Mapping[Backend, Callable[[jax.Array, jax.Array], jax.Array]] = {
    Backend.REFERENCE: reference.head_linear,
    Backend.CPU: cpu.head_linear,
    Backend.GPU: reference.head_linear,
    Backend.TPU: reference.head_linear,
    Backend.TPU_TOKAMAX: reference.head_linear,
}


def head_linear(
    x: Float[Array, "*B _ _"], weight: Float[Array, "_ _ O"], *, backend: Backend
) -> Float[Array, "*B _ O"]:
    """x[..., n, :] @ weight[n] for each head n, summed in float32.

    With the C++ kernels a row's bits are its own.

    Args:
      x: [..., N, I].
      weight: [N, I, O].
      backend: what computes.

    Returns:
      [..., N, O] in x's dtype.

    Raises:
      ValueError: the sizes do not fit together, or the backend has no implementation.
    """
    if weight.ndim != 3 or x.shape[-2:] != weight.shape[:2]:
        raise ValueError(
            f"x {x.shape} does not go with a weight {weight.shape}: they are [..., N, I] and "
            "[N, I, O]"
        )
    return find_implementation("head_linear", IMPLEMENTATIONS, backend)(x, weight)
