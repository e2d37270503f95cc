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
from flaxen.attention_kernels.causal_attention.reference import Operands, Options
from flaxen.kernels import cpu_library, derivatives


def causal_attention(operands: Operands, options: Options) -> jax.Array:
    """Like `reference.causal_attention`; each segment's tokens are consecutive."""
    q, k, v, sinks, segment_ids = operands
    has_dtype = q.dtype == k.dtype == v.dtype and q.dtype in (jnp.float32, jnp.bfloat16)
    if not has_dtype or q.shape[-1] % 2:
        return reference.causal_attention(operands, options)
    ids = None if segment_ids is None else jax.lax.stop_gradient(segment_ids)
    sinks = None if sinks is None else sinks.astype(jnp.float32)
    out: jax.Array = _attend(Operands(q, k, v, sinks, ids), options)
    return out


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _attend(operands: Operands, options: Options) -> jax.Array:
    return _call(operands, options)


def _call(operands: Operands, options: Options) -> jax.Array:
    q, k, v, *_ = operands
    out = jax.ShapeDtypeStruct((*q.shape[:3], v.shape[3]), q.dtype)
    given, attributes = _options(operands, options)
    found: jax.Array = cpu_library.kernel("causal_attention", out)(q, k, v, *given, **attributes)
    return found


def _options(operands: Operands, options: Options) -> tuple[list[jax.Array], dict[str, Any]]:
    """The last operands of both kernels, and their attributes."""
    sinks, ids = operands.sinks, operands.segment_ids
    ids = None if ids is None else ids.astype(jnp.int32)
    return [each for each in (ids, sinks) if each is not None], {
        "has_segments": ids is not None,
        "has_sinks": sinks is not None,
        "window": np.int64(options.window or 0),
        "chunk": np.int64(options.chunk or 0),
        "scale": np.float32(options.scale),
        "softcap": np.float32(options.softcap or 0),
    }


def _forward(operands: Operands, options: Options) -> tuple[jax.Array, Operands]:
    run = derivatives.call(_call, reference.causal_attention, (operands,), (options,))
    return run, operands


def _backward(options: Options, kept: Operands, cotangent: jax.Array) -> tuple[Operands]:
    return (derivatives.call(_call_gradient, reference.gradient, (kept, cotangent), (options,)),)


def _call_gradient(operands: Operands, cotangent: jax.Array, options: Options) -> Operands:
    q, k, v, *_ = operands
    outs = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in (q, k, v)]
    call = cpu_library.kernel(
        "causal_gradient", [*outs, jax.ShapeDtypeStruct(q.shape[2:3], jnp.float32)]
    )
    given, attributes = _options(operands, options)
    q_bar, k_bar, v_bar, sinks_bar = call(q, k, v, cotangent, *given, **attributes)
    return Operands(q_bar, k_bar, v_bar, None if operands.sinks is None else sinks_bar)


_attend.defvjp(_forward, _backward)
