"""The RMS norm by the C++ kernel, with the reference's gradient.

The kernel has float32 and bfloat16; the reference computes other dtypes.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flaxen.kernels import cpu_library, derivatives
from flaxen.kernels.rms_norm import reference


def rms_norm(x: Float[Array, "*B D"], weight: Float[Array, D], eps: float) -> Float[Array, "*B D"]:
    """See flaxen.kernels.rms_norm.rms_norm."""
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        return reference.rms_norm(x, weight, eps)
    return _rms_norm(x, weight, float(eps))


def differentiated(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    """The same for use in a backward pass; differentiable again."""
    found: jax.Array = derivatives.call(_call, reference.rms_norm, (x, weight), (eps,))
    return found


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rms_norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    return _call(x, weight, eps)


def _call(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    # Sequential, because under vmap the weight may be batched too, and the kernel takes one weight.
    call = cpu_library.kernel(
        "rms_norm", jax.ShapeDtypeStruct(x.shape, x.dtype), vmap_method="sequential"
    )
    out: jax.Array = call(x, weight.astype(x.dtype), eps=np.float32(eps))
    return out


def _forward(
    x: jax.Array, weight: jax.Array, eps: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return differentiated(x, weight, eps), (x, weight)


def _backward(
    eps: float, kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    _, pull_back = jax.vjp(lambda x, weight: reference.rms_norm(x, weight, eps), *kept)
    found: tuple[jax.Array, jax.Array] = pull_back(gradient)
    return found


_rms_norm.defvjp(_forward, _backward)
