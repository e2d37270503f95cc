"""Activations: functions of one number, such as GELU, https://arxiv.org/abs/1606.08415."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Array, Float

from flaxen.kernels.activation import cpu, reference
from flaxen.kernels.backend import Backend, find_implementation, implementations

# gelu is the exact one, with the error function; gelu_tanh the approximation that some models were
# trained with.
ActivationName = Literal["gelu", "gelu_tanh", "silu", "sigmoid", "tanh"]

# Elementwise, and one program for every element: XLA's is invariant on a GPU too.
IMPLEMENTATIONS = implementations(reference.activation, {Backend.CPU: cpu.activation})


def activation(
    x: Float[Array, "*B D"], name: ActivationName, *, backend: Backend
) -> Float[Array, "*B D"]:
    """Applies a function to each number.

    XLA's own on a CPU computes the last numbers of an array with other instructions than the rest,
    so that a token's bits would depend on where it stands in the batch; the C++ kernel's don't.

    Args:
      x: [..., D].
      name: the function's.
      backend: what computes.

    Returns:
      [..., D] in x's dtype, computed in float32.
    """
    return find_implementation("activation", IMPLEMENTATIONS, backend)(x, name)
