"""The layer norm by the C++ kernel, with the reference's gradient."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Array, Float

from flaxen.kernels import cpu_library, derivatives
from flaxen.kernels.layer_norm import reference


@derivatives.by_kernel(reference.layer_norm, num_options=1)
def layer_norm(
    x: Float[Array, "*B D"], weight: Float[Array, D], bias: Float[Array, D] | None, eps: float
) -> Float[Array, "*B D"]:
    """See flaxen.kernels.layer_norm.layer_norm."""
    # Sequential, because under vmap the weight may be batched too, and the kernel takes one weight.
    call = cpu_library.kernel(
        "layer_norm", jax.ShapeDtypeStruct(x.shape, x.dtype), vmap_method="sequential"
    )
    vectors = [vector.astype(x.dtype) for vector in (weight, bias) if vector is not None]
    out: jax.Array = call(x, *vectors, eps=np.float32(eps))
    return out
