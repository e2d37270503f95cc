"""The gated RMS norm by the C++ kernel, with the reference's gradient.

The kernel has float32 and bfloat16; the reference computes other dtypes.
"""

from __future__ import annotations

import functools

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
    return _gated_norm(x, gate.astype(x.dtype), weight, options)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _gated_norm(x: jax.Array, gate: jax.Array, weight: jax.Array, options: Options) -> jax.Array:
    return _call(x, gate, weight, options)


def _call(x: jax.Array, gate: jax.Array, weight: jax.Array, options: Options) -> jax.Array:
    call = cpu_library.kernel("gated_norm", jax.ShapeDtypeStruct(x.shape, x.dtype))
    out: jax.Array = call(
        *(x, gate, weight.astype(jnp.float32)),
        group=np.int64(options.group),
        eps=np.float32(options.eps),
        is_gate_first=np.bool_(options.is_gate_first),
    )
    return out


_Kept = tuple[jax.Array, jax.Array, jax.Array]


def _forward(
    x: jax.Array, gate: jax.Array, weight: jax.Array, options: Options
) -> tuple[jax.Array, _Kept]:
    kept = (x, gate, weight)
    return derivatives.call(_call, reference.gated_norm, kept, (options,)), kept


def _backward(
    options: Options, kept: _Kept, gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    _, pull_back = jax.vjp(
        lambda x, gate, weight: reference.gated_norm(x, gate, weight, options), *kept
    )
    found: tuple[jax.Array, jax.Array, jax.Array] = pull_back(gradient)
    return found


_gated_norm.defvjp(_forward, _backward)
