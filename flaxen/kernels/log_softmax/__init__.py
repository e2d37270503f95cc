"""Log-probabilities of logits.

On the CPU backend a row's bits are the same whatever the rows beside it: XLA's sum over the
vocabulary has an order that depends on the number of rows, the C++ kernel's has not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
from jaxtyping import Array, Float32

from flaxen.kernels.backend import Backend, find_implementation, implementations
from flaxen.kernels.log_softmax import cpu, gpu_invariant, reference

IMPLEMENTATIONS: Mapping[Backend, Callable[..., jax.Array]] = implementations(
    reference.log_softmax,
    {Backend.CPU: cpu.log_softmax, Backend.GPU_INVARIANT: gpu_invariant.log_softmax},
)


def log_softmax(logits: Float32[Array, "*B V"], *, backend: Backend) -> Float32[Array, "*B V"]:
    """logits - log(sum(exp(logits))) over the last axis, in float32.

    Args:
      logits: [..., V].
      backend: what computes.
    """
    return find_implementation("log_softmax", IMPLEMENTATIONS, backend)(logits)
