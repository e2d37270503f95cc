"""Causal attention in plain jnp: all scores at once, and its gradient a few queries at a time.

The queries may be a part of a row, whose keys are all there.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxen.attention_kernels.causal_attention.chunks import chunk_segments
from flaxen.attention_kernels.mask import sees

_BLOCK = 128  # queries whose scores are in memory at once


class Operands(NamedTuple):
    """The arrays, as `causal_attention` of the package has them."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    sinks: jax.Array | None = None
    segment_ids: jax.Array | None = None


class Options(NamedTuple):
    """Options that are the same for all tokens."""

    window: int | None
    scale: float
    softcap: float | None
    chunk: int | None = None


def causal_attention(operands: Operands, options: Options, first: jax.Array | int = 0) -> jax.Array:
    """Like `causal_attention` of the package, whose first_query is `first`."""
    q, k, v, sinks, segment_ids = operands
    B, T, N, H = q.shape
    K = k.shape[2]
    segment_ids = chunk_segments(segment_ids, k.shape[:2], options.chunk)
    own_ids = _own_ids(segment_ids, first, T)
    grouped_q = q.reshape(B, T, K, N // K, H)
    scores = jnp.einsum("BTKGH,BSKH->BKGTS", grouped_q, k, preferred_element_type=jnp.float32)
    queries = first + jnp.arange(T)
    visible = _visible(queries, own_ids, segment_ids, B, k.shape[1], options.window)
    capped = _capped(scores * options.scale, options.softcap)
    weights = _softmax(capped, visible, sinks)[0].astype(v.dtype)
    out = jnp.einsum("BKGTS,BSKH->BTKGH", weights, v, preferred_element_type=jnp.float32)
    return out.reshape(B, T, N, -1).astype(q.dtype)


def gradient(
    operands: Operands, cotangent: jax.Array, options: Options, first: jax.Array | int = 0
) -> Operands:
    """The gradients of q, k, v and the sinks: computes the scores again in float32, some queries at
    a time.
    """
    q, k, v, sinks, segment_ids = operands
    B, T, N, H = q.shape
    K, V = v.shape[2:]
    segment_ids = chunk_segments(segment_ids, k.shape[:2], options.chunk)
    block = min(_BLOCK, T)
    num_blocks = -(-T // block)

    def blocks(x: jax.Array) -> jax.Array:  # [num_blocks, B, block, ...]
        padded = jnp.pad(x, ((0, 0), (0, num_blocks * block - T), *((0, 0),) * (x.ndim - 2)))
        return padded.reshape(B, num_blocks, block, *x.shape[2:]).swapaxes(0, 1)

    k32, v32 = k.astype(jnp.float32), v.astype(jnp.float32)

    def step(
        sums: tuple[jax.Array, ...], xs: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, ...], jax.Array]:
        start, q_block, out_bar, *ids = xs
        q32 = q_block.astype(jnp.float32).reshape(B, block, K, N // K, H)
        out_bar = out_bar.astype(jnp.float32).reshape(B, block, K, N // K, V)
        scores = jnp.einsum("BTKGH,BSKH->BKGTS", q32, k32) * options.scale
        capped = _capped(scores, options.softcap)
        queries = first + start + jnp.arange(block)
        own_ids = ids[0] if ids else None
        visible = _visible(queries, own_ids, segment_ids, B, k.shape[1], options.window)
        weights, sink_weights = _softmax(capped, visible, sinks)
        weights_bar = jnp.einsum("BTKGH,BSKH->BKGTS", out_bar, v32)
        weighted = weights * weights_bar
        means = jnp.sum(weighted, axis=-1, keepdims=True)
        scores_bar = weighted - weights * means
        sinks_bar = sums[2] - jnp.sum(sink_weights * means, axis=(0, 3, 4)).reshape(-1)
        if options.softcap is not None:
            scores_bar = scores_bar * (1 - (capped / options.softcap) ** 2)
        scores_bar = scores_bar * options.scale
        q_bar = jnp.einsum("BKGTS,BSKH->BTKGH", scores_bar, k32)
        k_bar = sums[0] + jnp.einsum("BKGTS,BTKGH->BSKH", scores_bar, q32)
        v_bar = sums[1] + jnp.einsum("BKGTS,BTKGH->BSKH", weights, out_bar)
        return (k_bar, v_bar, sinks_bar), q_bar

    xs = [jnp.arange(num_blocks) * block, blocks(q), blocks(cotangent)]
    query_ids = _own_ids(segment_ids, first, T)
    if query_ids is not None:
        xs.append(blocks(query_ids))
    zeros = tuple(jnp.zeros(shape, jnp.float32) for shape in (k.shape, v.shape, (N,)))
    (k_bar, v_bar, sinks_bar), q_bars = jax.lax.scan(step, zeros, tuple(xs))
    q_bar = q_bars.swapaxes(0, 1).reshape(B, num_blocks * block, N, H)[:, :T]
    bars = q_bar.astype(q.dtype), k_bar.astype(k.dtype), v_bar.astype(v.dtype)
    return Operands(*bars, None if sinks is None else sinks_bar.astype(sinks.dtype))


def _own_ids(
    segment_ids: jax.Array | None, first: jax.Array | int, num_queries: int
) -> jax.Array | None:
    """The segment ids of the queries, [B, num_queries]."""
    if segment_ids is None or segment_ids.shape[1] == num_queries:
        return segment_ids
    return jax.lax.dynamic_slice_in_dim(segment_ids, first, num_queries, axis=1)


def _visible(
    queries: jax.Array,
    query_ids: jax.Array | None,
    key_ids: jax.Array | None,
    B: int,
    S: int,
    window: int | None,
) -> jax.Array:
    """The mask [B, queries, S] of the keys that these queries see."""
    visible = sees(queries[:, None], jnp.arange(S)[None, :], window, None)
    visible = jnp.broadcast_to(visible[None], (B, queries.shape[0], S))
    if query_ids is None or key_ids is None:
        return visible
    same = query_ids[:, :, None] == key_ids[:, None, :]
    return visible & same & (query_ids != 0)[:, :, None]


def _capped(scores: jax.Array, softcap: float | None) -> jax.Array:
    return scores if softcap is None else softcap * jnp.tanh(scores / softcap)


def _softmax(
    scores: jax.Array, visible: jax.Array, sinks: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Softmax over visible keys and the sinks; zeros for the keys if none is visible.

    Args:
      scores: [B, K, G, T, S].
      visible: [B, T, S].
      sinks: [K * G].

    Returns:
      The weights of the keys, as the scores, and of the sinks, [B, K, G, T, 1].
    """
    B, K, G, T, S = scores.shape
    visible = jnp.broadcast_to(visible[:, None, None], scores.shape)
    if sinks is None:
        return jax.nn.softmax(scores, axis=-1, where=visible), jnp.zeros((), scores.dtype)
    column = jnp.broadcast_to(sinks.astype(scores.dtype).reshape(K, G, 1, 1), (B, K, G, T, 1))
    wide = jnp.concatenate([scores, column], axis=-1)
    seen = jnp.pad(visible, (*((0, 0),) * 4, (0, 1)), constant_values=True)
    weights = jax.nn.softmax(wide, axis=-1, where=seen)
    return weights[..., :S], weights[..., S:]
