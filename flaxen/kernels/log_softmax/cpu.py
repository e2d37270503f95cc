"""Log-probabilities by the C++ kernel; their gradient is by XLA."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxen.kernels import cpu_library, derivatives
from flaxen.kernels.log_softmax import reference


@jax.custom_vjp
def log_softmax(logits: jax.Array) -> jax.Array:
    """See flaxen.kernels.log_softmax.log_softmax."""
    return _call(logits)


def _call(logits: jax.Array) -> jax.Array:
    shape = jax.ShapeDtypeStruct(logits.shape, jnp.float32)
    out: jax.Array = cpu_library.kernel("log_softmax", shape, vmap_method="broadcast_all")(logits)
    return out


def _forward(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    out = derivatives.call(_call, reference.log_softmax, (logits,))
    return out, out


def _backward(out: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    return (gradient - jnp.exp(out) * jnp.sum(gradient, axis=-1, keepdims=True),)


log_softmax.defvjp(_forward, _backward)
