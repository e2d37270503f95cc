"""The RMS norm by the C++ kernel, with the reference's gradient.

The kernel has float32 and bfloat16; the reference computes other dtypes.
"""

from __future__ import annotations

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
    out: jax.Array = derivatives.with_gradient(
        _call, reference.rms_norm, (x, weight), (float(eps),)
    )
    return out


def differentiated(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    """The same for use in a backward pass; differentiable again."""
    found: jax.Array = derivatives.call(_call, reference.rms_norm, (x, weight), (eps,))
    return found


def _call(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    # Sequential, because under vmap the weight may be batched too, and the kernel takes one weight.
    call = cpu_library.kernel(
        "rms_norm", jax.ShapeDtypeStruct(x.shape, x.dtype), vmap_method="sequential"
    )
    out: jax.Array = call(x, weight.astype(x.dtype), eps=np.float32(eps))
    return out
