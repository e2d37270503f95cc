"""Each head's own product by the C++ kernel. Deliberately does not know the algorithm:
csrc/head_linear.inc.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxen.kernels import cpu_library, derivatives
from flaxen.kernels.head_linear import reference


def head_linear(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Like `reference.head_linear`. The kernel has float32 and bfloat16; the reference computes
    others.
    """
    if x.dtype != weight.dtype or x.dtype not in (jnp.float32, jnp.bfloat16):
        return reference.head_linear(x, weight)
    out: jax.Array = _multiply(x, weight)
    return out


@jax.custom_vjp
def _multiply(x: jax.Array, weight: jax.Array) -> jax.Array:
    return _call(x, weight)


def _call(x: jax.Array, weight: jax.Array) -> jax.Array:
    out = jax.ShapeDtypeStruct((*x.shape[:-1], weight.shape[2]), x.dtype)
    found: jax.Array = cpu_library.kernel("head_linear", out)(x, weight)
    return found


_Kept = tuple[jax.Array, jax.Array]


def _forward(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, _Kept]:
    return derivatives.call(_call, reference.head_linear, (x, weight)), (x, weight)


def _backward(kept: _Kept, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The gradients, whose sums are float32 as the reference's are."""
    x, weight = kept
    x_bar = jnp.einsum("...NO,NIO->...NI", cotangent, weight, preferred_element_type=jnp.float32)
    weight_bar = jnp.einsum("...NI,...NO->NIO", x, cotangent, preferred_element_type=jnp.float32)
    return x_bar.astype(x.dtype), weight_bar.astype(weight.dtype)


_multiply.defvjp(_forward, _backward)
