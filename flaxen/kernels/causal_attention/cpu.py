"""Causal attention by the C++ kernel of paged attention, and its gradient by one of its own.

The kernels have float32 and bfloat16, and heads of an even size; the reference computes others.
Deliberately does not know the algorithms: csrc/causal_attention.inc, csrc/causal_gradient.inc.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.kernels import cpu_library, derivatives
from flaxen.kernels.causal_attention import reference
from flaxen.kernels.causal_attention.reference import Options


def causal_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, options: Options
) -> jax.Array:
    """Like `reference.causal_attention`; each segment's tokens are consecutive."""
    has_dtype = q.dtype == k.dtype == v.dtype and q.dtype in (jnp.float32, jnp.bfloat16)
    if not has_dtype or q.shape[-1] % 2:
        return reference.causal_attention(q, k, v, segment_ids, options)
    ids = None if segment_ids is None else jax.lax.stop_gradient(segment_ids)
    out: jax.Array = _attend(q, k, v, ids, options)
    return out


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, options: Options
) -> jax.Array:
    return _call(q, k, v, segment_ids, options)


def _call(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, options: Options
) -> jax.Array:
    call = cpu_library.kernel(
        "causal_attention",
        jax.ShapeDtypeStruct(q.shape, q.dtype),
    )
    out: jax.Array = call(
        *(q, k, v),
        *(() if segment_ids is None else (segment_ids.astype(jnp.int32),)),
        window=np.int64(options.window or 0),
        scale=np.float32(options.scale),
        softcap=np.float32(options.softcap or 0),
    )
    return out


_Kept = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, options: Options
) -> tuple[jax.Array, _Kept]:
    out: jax.Array = derivatives.call(
        _call, reference.causal_attention, (q, k, v, segment_ids), (options,)
    )
    return out, (q, k, v, segment_ids)


def _backward(
    options: Options, kept: _Kept, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    q, k, v, segment_ids = kept
    if options.softcap is not None:  # the gradient kernel has no softcap
        return *reference.gradient(q, k, v, segment_ids, options, cotangent), None
    q_bar, k_bar, v_bar = derivatives.call(
        _call_gradient,
        lambda q, k, v, ids, cotangent, options: reference.gradient(
            q, k, v, ids, options, cotangent
        ),
        (q, k, v, segment_ids, cotangent),
        (options,),
    )
    return q_bar, k_bar, v_bar, None


def _call_gradient(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array | None,
    cotangent: jax.Array,
    options: Options,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    call = cpu_library.kernel(
        "causal_gradient",
        [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in (q, k, v)],
    )
    q_bar, k_bar, v_bar = call(
        *(q, k, v, cotangent),
        *(() if segment_ids is None else (segment_ids.astype(jnp.int32),)),
        window=np.int64(options.window or 0),
        scale=np.float32(options.scale),
    )
    return q_bar, k_bar, v_bar


_attend.defvjp(_forward, _backward)
