"""Causal attention of some consecutive queries of a row over the keys of the whole row.

On a mesh each device has the queries of its part of a row. The scores of a few queries are in
memory at once, in both passes: rows that are divided are long. Deliberately does not know meshes.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from flaxen.attention_kernels.causal_attention import reference
from flaxen.attention_kernels.causal_attention.reference import Options

_BLOCK = 128  # the most queries whose scores are in memory at once


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def causal_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sinks: jax.Array | None,
    segment_ids: jax.Array | None,
    first: jax.Array,
    options: Options,
) -> jax.Array:
    """Like `reference.causal_attention`.

    Args:
      q: [B, T, N, H].
      k: [B, S, K, H], S >= T.
      v: [B, S, K, V].
      sinks: [N] or None.
      segment_ids: [B, S].
      first: the place of the first query in the row.
      options: the same for all tokens.
    """
    B, T, N, H = q.shape
    size = next(size for size in range(min(_BLOCK, T), 0, -1) if T % size == 0)
    blocks = jnp.moveaxis(q.reshape(B, T // size, size, N, H), 1, 0)

    def block(each: tuple[jax.Array, jax.Array]) -> jax.Array:
        number, own = each
        start = first + number * size
        return reference.causal_attention(own, k, v, sinks, segment_ids, options, start)

    out = jax.lax.map(block, (jnp.arange(T // size), blocks))
    return jnp.moveaxis(out, 0, 1).reshape(B, T, N, -1)


_Kept = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array | None, jax.Array]


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sinks: jax.Array | None,
    segment_ids: jax.Array | None,
    first: jax.Array,
    options: Options,
) -> tuple[jax.Array, _Kept]:
    out = causal_attention(q, k, v, sinks, segment_ids, first, options)
    return out, (q, k, v, sinks, segment_ids, first)


def _backward(options: Options, kept: _Kept, cotangent: jax.Array) -> tuple[jax.Array | None, ...]:
    q, k, v, sinks, segment_ids, first = kept
    bars = reference.gradient(q, k, v, sinks, segment_ids, options, cotangent, first)
    return *bars, None, None


causal_attention.defvjp(_forward, _backward)
