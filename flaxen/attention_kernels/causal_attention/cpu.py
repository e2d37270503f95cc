"""Causal attention by the C++ kernel of paged attention, and its gradient by one of its own.

The kernels have float32 and bfloat16, and heads of an even size; the reference computes others.
Deliberately does not know the algorithms: csrc/causal_attention.inc, csrc/causal_gradient.inc.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.attention_kernels.causal_attention import reference
from flaxen.attention_kernels.causal_attention.reference import Options
from flaxen.kernels import cpu_library, derivatives


def causal_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sinks: jax.Array | None,
    segment_ids: jax.Array | None,
    options: Options,
) -> jax.Array:
    """Like `reference.causal_attention`; each segment's tokens are consecutive."""
    has_dtype = q.dtype == k.dtype == v.dtype and q.dtype in (jnp.float32, jnp.bfloat16)
    if not has_dtype or q.shape[-1] % 2:
        return reference.causal_attention(q, k, v, sinks, segment_ids, options)
    ids = None if segment_ids is None else jax.lax.stop_gradient(segment_ids)
    sinks = None if sinks is None else sinks.astype(jnp.float32)
    out: jax.Array = _attend(q, k, v, sinks, ids, options)
    return out


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sinks: jax.Array | None,
    segment_ids: jax.Array | None,
    options: Options,
) -> jax.Array:
    return _call(q, k, v, sinks, segment_ids, options)


def _call(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sinks: jax.Array | None,
    segment_ids: jax.Array | None,
    options: Options,
) -> jax.Array:
    out = jax.ShapeDtypeStruct((*q.shape[:3], v.shape[3]), q.dtype)
    call = cpu_library.kernel("causal_attention", out)
    given, attributes = _options(sinks, segment_ids, options)
    found: jax.Array = call(q, k, v, *given, **attributes)
    return found


def _options(
    sinks: jax.Array | None, segment_ids: jax.Array | None, options: Options
) -> tuple[list[jax.Array], dict[str, Any]]:
    """The last operands of both kernels, and their attributes."""
    ids = None if segment_ids is None else segment_ids.astype(jnp.int32)
    return [each for each in (ids, sinks) if each is not None], {
        "has_segments": ids is not None,
        "has_sinks": sinks is not None,
        "window": np.int64(options.window or 0),
        "chunk": np.int64(options.chunk or 0),
        "scale": np.float32(options.scale),
        "softcap": np.float32(options.softcap or 0),
    }


_Kept = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array | None]


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sinks: jax.Array | None,
    segment_ids: jax.Array | None,
    options: Options,
) -> tuple[jax.Array, _Kept]:
    kept = (q, k, v, sinks, segment_ids)
    out: jax.Array = derivatives.call(_call, reference.causal_attention, kept, (options,))
    return out, kept


def _backward(options: Options, kept: _Kept, cotangent: jax.Array) -> tuple[jax.Array | None, ...]:
    bars: tuple[jax.Array | None, ...] = derivatives.call(
        _call_gradient, _reference_gradient, (*kept, cotangent), (options,)
    )
    return *bars, None


def _reference_gradient(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sinks: jax.Array | None,
    segment_ids: jax.Array | None,
    cotangent: jax.Array,
    options: Options,
) -> tuple[jax.Array | None, ...]:
    return reference.gradient(q, k, v, sinks, segment_ids, options, cotangent)


def _call_gradient(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sinks: jax.Array | None,
    segment_ids: jax.Array | None,
    cotangent: jax.Array,
    options: Options,
) -> tuple[jax.Array | None, ...]:
    outs = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in (q, k, v)]
    call = cpu_library.kernel(
        "causal_gradient", [*outs, jax.ShapeDtypeStruct(q.shape[2:3], jnp.float32)]
    )
    given, attributes = _options(sinks, segment_ids, options)
    *bars, sinks_bar = call(q, k, v, cotangent, *given, **attributes)
    return *bars, None if sinks is None else sinks_bar


_attend.defvjp(_forward, _backward)
