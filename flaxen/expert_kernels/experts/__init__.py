"""Experts: each token goes through a few of many MLPs, whose outputs are added with weights.

Who goes where is `expert_kernels/routing`'s. The stacks of weights [E, I, O] are plain arrays; a
`PackedLinear` with `num_experts`, which the C++ kernels multiply on the CPU backend; or a
`QuantizedLinear` with an axis in front, on the others. No token is dropped, however many choose one
expert. Deliberately does not know the layers of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32

from flaxen.expert_kernels.experts import cpu, reference
from flaxen.expert_kernels.experts.reference import Operand, Stack
from flaxen.expert_kernels.experts.spec import ExpertsSpec, Gate
from flaxen.kernels.backend import Backend, find_implementation

__all__ = ["ExpertsSpec", "Gate", "Stack", "experts"]

_PLAIN = ExpertsSpec()
Implementation = Callable[..., jax.Array]
# On GPUs and TPUs the grouped product is jax.lax.ragged_dot, for which XLA has kernels.
IMPLEMENTATIONS: Mapping[Backend, Implementation] = {
    **dict.fromkeys(Backend, reference.experts),
    Backend.CPU: cpu.experts,
}


def experts(
    x: Float[Array, "*B D"],
    ids: Int32[Array, "*B k"],
    weights: Float[Array, "*B k"],
    layers: tuple[Stack, Stack, Stack],
    biases: tuple[Operand, Operand, Operand] = (None, None, None),
    *,
    spec: ExpertsSpec = _PLAIN,
    residual: Float[Array, "*B D"] | None = None,
    out_dtype: DTypeLike | None = None,
    backend: Backend,
) -> Float[Array, "*B D"]:
    """The sum over j of weights[j] * expert(ids[j], x), in the order of j, plus the residual.

    An expert is down(gate'(gate(x), up(x))). Sums are float32, rounded once; what is between an
    expert's products is rounded to x's dtype. A row of zeros is padding and has no experts, nor has
    an id outside of [0, E).

    Args:
      x: [..., D] activations, after their norm.
      ids: [..., k].
      weights: float32 [..., k].
      layers: the stacks gate and up [E, D, F], and down [E, F, D].
      biases: the biases of these, [E, F] or [E, D] in x's dtype, or None.
      spec: what the experts compute.
      residual: [..., D] or None.
      out_dtype: the dtype of the result; None is x's.
      backend: what computes.

    Raises:
      ValueError: the sizes do not match.
    """
    gate, up, down = layers
    E, D, F = gate.shape
    if x.shape[-1] != D or up.shape != gate.shape or down.shape != (E, F, D):
        raise ValueError(
            f"experts for inputs of {x.shape[-1]} need gate and up [E, {x.shape[-1]}, F] and down "
            f"[E, F, {x.shape[-1]}], got {gate.shape}, {up.shape} and {down.shape}"
        )
    k = ids.shape[-1]
    dtype = jnp.dtype(x.dtype if out_dtype is None else out_dtype)
    out = find_implementation("experts", IMPLEMENTATIONS, backend)(
        x.reshape(-1, D),
        ids.reshape(-1, k),
        weights.reshape(-1, k),
        layers,
        biases,
        None if residual is None else residual.reshape(-1, D),
        spec,
        dtype,
    )
    return out.reshape(x.shape)
