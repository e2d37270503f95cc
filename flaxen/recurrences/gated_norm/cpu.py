"""The gated RMS norm by the C++ kernel, with the reference's gradient.

The kernel has float32 and bfloat16; the reference computes other dtypes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.kernels import cpu_library, derivatives
from flaxen.recurrences.gated_norm import reference
from flaxen.recurrences.gated_norm.reference import Options


def gated_norm(x: jax.Array, gate: jax.Array, weight: jax.Array, options: Options) -> jax.Array:
    """See flaxen.recurrences.gated_norm.gated_norm."""
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        return reference.gated_norm(x, gate, weight, options)
    args = (x, gate.astype(x.dtype), weight)
    out: jax.Array = derivatives.with_gradient(_call, reference.gated_norm, args, (options,))
    return out


def _call(x: jax.Array, gate: jax.Array, weight: jax.Array, options: Options) -> jax.Array:
    call = cpu_library.kernel("gated_norm", jax.ShapeDtypeStruct(x.shape, x.dtype))
    out: jax.Array = call(
        *(x, gate, weight.astype(jnp.float32)),
        group=np.int64(options.group),
        eps=np.float32(options.eps),
        is_gate_first=np.bool_(options.is_gate_first),
    )
    return out
