"""The layer norm by the C++ kernel, with the reference's gradient.

The kernel has float32 and bfloat16; the reference computes other dtypes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flaxen.kernels import cpu_library, derivatives
from flaxen.kernels.layer_norm import reference


def layer_norm(
    x: Float[Array, "*B D"], weight: Float[Array, D], bias: Float[Array, D] | None, eps: float
) -> Float[Array, "*B D"]:
    """See flaxen.kernels.layer_norm.layer_norm."""
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        return reference.layer_norm(x, weight, bias, eps)
    out: jax.Array = derivatives.with_gradient(
        _call, reference.layer_norm, (x, weight, bias), (float(eps),)
    )
    return out


def _call(x: jax.Array, weight: jax.Array, bias: jax.Array | None, eps: float) -> jax.Array:
    # Sequential, because under vmap the weight may be batched too, and the kernel takes one weight.
    call = cpu_library.kernel(
        "layer_norm", jax.ShapeDtypeStruct(x.shape, x.dtype), vmap_method="sequential"
    )
    vectors = [vector.astype(x.dtype) for vector in (weight, bias) if vector is not None]
    out: jax.Array = call(x, *vectors, eps=np.float32(eps))
    return out
