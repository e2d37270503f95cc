"""The rotation of rope by the C++ kernel; its gradient is the inverse rotation.

The kernel has float32 and bfloat16, with tables in float32; the reference computes other dtypes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flaxen.kernels import cpu_library, derivatives
from flaxen.kernels.rope import reference


def apply_rope(
    x: Float[Array, "*B heads H"],
    cos: Float[Array, "*B 1 half"],
    sin: Float[Array, "*B 1 half"],
) -> Float[Array, "*B heads H"]:
    """See flaxen.kernels.rope.apply_rope."""
    tables_are_float32 = cos.dtype == jnp.float32 and sin.dtype == jnp.float32
    if not tables_are_float32 or x.dtype not in (jnp.float32, jnp.bfloat16):
        return reference.apply_rope(x, cos, sin)
    half = cos.shape[-1]
    tokens = x.reshape(-1, *x.shape[-2:])
    out: jax.Array = _apply_rope(tokens, cos.reshape(-1, half), sin.reshape(-1, half))
    return out.reshape(x.shape)


@jax.custom_vjp
def _apply_rope(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """x [T, heads, H]; cos, sin [T, H/2]."""
    return _call(x, cos, sin)


def _call(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    call = cpu_library.kernel("rope", jax.ShapeDtypeStruct(x.shape, x.dtype))
    out: jax.Array = call(x, cos, sin)
    return out


def _reference(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    return reference.apply_rope(x, cos[:, None], sin[:, None])


def _forward(
    x: jax.Array, cos: jax.Array, sin: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    return derivatives.call(_call, _reference, (x, cos, sin)), (x, cos, sin)


def _backward(
    kept: tuple[jax.Array, jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, cos, sin = kept
    # The gradient of the tables is the reference's; it is only computed if it is used.
    _, pull_back = jax.vjp(lambda cos, sin: _reference(x, cos, sin), cos, sin)
    back: jax.Array = derivatives.call(_call, _reference, (gradient, cos, -sin))
    return back, *pull_back(gradient)


_apply_rope.defvjp(_forward, _backward)
