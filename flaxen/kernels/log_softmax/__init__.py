"""Log-probabilities of logits; a row's bits do not depend on the other rows.

XLA's sum over the vocabulary has an order that depends on the number of rows, so that on the CPU
the C++ kernel computes it where it is in use.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from flaxen.kernels import cpu_library, derivatives


def log_softmax(logits: Float32[Array, "*B V"]) -> Float32[Array, "*B V"]:
    """logits - log(sum(exp(logits))) over the last axis, in float32.

    Args:
      logits: [..., V].
    """
    if cpu_library.is_enabled():
        return _native(logits)
    return jax.nn.log_softmax(logits, axis=-1)


@jax.custom_vjp
def _native(logits: jax.Array) -> jax.Array:
    return _call(logits)


def _call(logits: jax.Array) -> jax.Array:
    cpu_library.library()
    shape = jax.ShapeDtypeStruct(logits.shape, jnp.float32)
    call = jax.ffi.ffi_call("flaxen_log_softmax", shape, vmap_method="broadcast_all")
    out: jax.Array = call(logits)
    return out


def _forward(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    out = derivatives.call(_call, jax.nn.log_softmax, (logits,))
    return out, out


def _backward(out: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    return (gradient - jnp.exp(out) * jnp.sum(gradient, axis=-1, keepdims=True),)


_native.defvjp(_forward, _backward)
