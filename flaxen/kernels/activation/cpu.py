"""Activations by the C++ kernel, with the reference's gradient."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Array, Float

from flaxen.kernels import cpu_library, derivatives
from flaxen.kernels.activation import reference

_KINDS = ("gelu", "gelu_tanh", "silu", "sigmoid", "tanh")  # the order of csrc/kernels.h


@derivatives.by_kernel(reference.activation, num_options=1)
def activation(x: Float[Array, "*B D"], name: str) -> Float[Array, "*B D"]:
    """See flaxen.kernels.activation.activation."""
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    call = cpu_library.kernel("activation", shape, vmap_method="broadcast_all")
    out: jax.Array = call(x, kind=np.int64(_KINDS.index(name)))
    return out
