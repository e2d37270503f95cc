"""Log-probabilities in plain JAX."""

from __future__ import annotations

import jax
from jaxtyping import Array, Float32


def log_softmax(logits: Float32[Array, "*B V"]) -> Float32[Array, "*B V"]:
    """See flaxen.kernels.log_softmax.log_softmax."""
    return jax.nn.log_softmax(logits, axis=-1)
