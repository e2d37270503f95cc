"""The Gaussian error linear unit, x * Phi(x), https://arxiv.org/abs/1606.08415."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import jax
from jaxtyping import Array, Float

from flaxen.kernels.backend import Backend, find_implementation
from flaxen.kernels.gelu import cpu, reference

# The exact form, with the error function, or the approximation with tanh.
GeluForm = Literal["erf", "tanh"]

IMPLEMENTATIONS: Mapping[Backend, Callable[[jax.Array, bool], jax.Array]] = {
    Backend.REFERENCE: reference.gelu,
    Backend.CPU: cpu.gelu,
    # Elementwise, and one program for every element: XLA's is invariant on these.
    Backend.GPU: reference.gelu,
    Backend.GPU_INVARIANT: reference.gelu,
    Backend.TPU: reference.gelu,
    Backend.TPU_TOKAMAX: reference.gelu,
}


def gelu(x: Float[Array, "*B D"], form: GeluForm, *, backend: Backend) -> Float[Array, "*B D"]:
    """Multiplies each number by the probability that a standard normal one is below it.

    XLA's own on a CPU computes the last numbers of an array with other instructions than the rest,
    so that a token's bits would depend on where it stands in the batch; the C++ kernel's don't.

    Args:
      x: [..., D].
      form: "erf" is exact, "tanh" the approximation that some models were trained with.
      backend: what computes.

    Returns:
      [..., D] in x's dtype, computed in float32.
    """
    implementation = find_implementation("gelu", IMPLEMENTATIONS, backend)
    return implementation(x, form == "tanh")
