"""The gated RMS norm by the C++ kernel, with the reference's gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.kernels import cpu_library, derivatives
from flaxen.recurrences.gated_norm import reference
from flaxen.recurrences.gated_norm.reference import Options


@derivatives.by_kernel(reference.gated_norm, num_options=1)
def gated_norm(x: jax.Array, gate: jax.Array, weight: jax.Array, options: Options) -> jax.Array:
    """See flaxen.recurrences.gated_norm.gated_norm."""
    call = cpu_library.kernel("gated_norm", jax.ShapeDtypeStruct(x.shape, x.dtype))
    out: jax.Array = call(
        *(x, gate.astype(x.dtype), weight.astype(jnp.float32)),
        group=np.int64(options.group),
        eps=np.float32(options.eps),
        is_gate_first=np.bool_(options.is_gate_first),
    )
    return out
