"""Activations by the C++ kernel, with the reference's gradient.

The kernel has float32 and bfloat16; the reference computes other dtypes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flaxen.kernels import cpu_library, derivatives
from flaxen.kernels.activation import reference

_KINDS = ("gelu", "gelu_tanh", "silu", "sigmoid", "tanh")  # the order of csrc/kernels.h


def activation(x: Float[Array, "*B D"], name: str) -> Float[Array, "*B D"]:
    """See flaxen.kernels.activation.activation."""
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        return reference.activation(x, name)
    out: jax.Array = derivatives.with_gradient(_call, reference.activation, (x,), (name,))
    return out


def _call(x: jax.Array, name: str) -> jax.Array:
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    call = cpu_library.kernel("activation", shape, vmap_method="broadcast_all")
    out: jax.Array = call(x, kind=np.int64(_KINDS.index(name)))
    return out
