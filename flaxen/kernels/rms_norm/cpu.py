"""The RMS norm by the C++ kernel, with the reference's gradient."""

from __future__ import annotations

import jax
import numpy as np

from flaxen.kernels import cpu_library, derivatives
from flaxen.kernels.rms_norm import reference


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


rms_norm = derivatives.by_kernel(reference.rms_norm, num_options=1)(_call)
