"""GELU by the C++ kernel, with the reference's gradient.

The kernel has float32 and bfloat16; the reference computes other dtypes.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flaxen.kernels import cpu_library, derivatives
from flaxen.kernels.gelu import reference


def gelu(x: Float[Array, "*B D"], is_tanh: bool) -> Float[Array, "*B D"]:
    """See flaxen.kernels.gelu.gelu."""
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        return reference.gelu(x, is_tanh)
    return _gelu(x, is_tanh)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gelu(x: jax.Array, is_tanh: bool) -> jax.Array:
    return _call(x, is_tanh)


def _call(x: jax.Array, is_tanh: bool) -> jax.Array:
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    out: jax.Array = cpu_library.kernel("gelu", shape, vmap_method="broadcast_all")(
        x, is_tanh=is_tanh
    )
    return out


def _forward(x: jax.Array, is_tanh: bool) -> tuple[jax.Array, jax.Array]:
    out: jax.Array = derivatives.call(_call, reference.gelu, (x,), (is_tanh,))
    return out, x


def _backward(is_tanh: bool, x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    _, pull_back = jax.vjp(lambda x: reference.gelu(x, is_tanh), x)
    found: tuple[jax.Array] = pull_back(gradient)
    return found


_gelu.defvjp(_forward, _backward)
