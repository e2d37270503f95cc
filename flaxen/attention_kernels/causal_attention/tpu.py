"""Causal attention on a TPU by JAX's own Pallas kernel, splash attention, and its gradient.

It is for bfloat16: in float32 the kernel would multiply in bfloat16, so the reference computes.
Deliberately does not know the algorithm: jax.experimental.pallas.ops.tpu.splash_attention.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from flaxen.attention_kernels.causal_attention import reference
from flaxen.attention_kernels.causal_attention.chunks import chunk_segments
from flaxen.attention_kernels.causal_attention.reference import Operands, Options
from flaxen.kernels.interpret import by_platform

_LANES = 128
_BLOCK = 512  # tokens, at most: queries and keys of one step of the kernel


def has_kernel(*dtypes: jnp.dtype) -> bool:
    """Whether the kernel computes q, k and v of these dtypes, and not the reference."""
    return all(dtype == jnp.bfloat16 for dtype in dtypes)


def causal_attention(operands: Operands, options: Options) -> jax.Array:
    """Like `reference.causal_attention`. On a CPU the kernel is interpreted.

    Rows and heads are padded to whole tiles of 128. The queries are scaled before they are
    multiplied, and rounded to bfloat16 once more.
    """
    q, k, v, sinks, segment_ids = operands
    if not has_kernel(q.dtype, k.dtype, v.dtype):
        return reference.causal_attention(operands, options)
    B, T, V = *q.shape[:2], v.shape[3]
    segment_ids = chunk_segments(segment_ids, (B, T), options.chunk)
    ids = jnp.ones((B, T), jnp.int32) if segment_ids is None else segment_ids
    ids = jax.lax.stop_gradient(ids).astype(jnp.int32)
    is_token = (ids != 0)[:, :, None, None]
    scaled = (q.astype(jnp.float32) * options.scale).astype(q.dtype)

    def by_head(x: jax.Array) -> jax.Array:  # [B, heads, tiles of T, tiles of H]
        padding = ((0, 0), (0, -T % _LANES), (0, 0), (0, -x.shape[3] % _LANES))
        return jnp.pad(x, padding).swapaxes(1, 2)

    ids = jnp.pad(ids, ((0, 0), (0, -T % _LANES)))
    attend = functools.partial(_attend, options)
    out = by_platform(attend, by_head(scaled), by_head(k), by_head(v), ids, sinks)
    return jnp.where(is_token, out.swapaxes(1, 2)[:, :T, :, :V], 0)


def _attend(
    options: Options,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    ids: jax.Array,
    sinks: jax.Array | None,
    *,
    interpret: bool,
) -> jax.Array:
    """q [B, N, T, H], k [B, K, T, H], v [B, K, T, V], ids [B, T], sinks [N]: [B, N, T, V]."""
    N, T = q.shape[1:3]
    seen = None if options.window is None else options.window - 1  # before the token itself
    mask = masks.LocalMask((T, T), (seen, 0), offset=0)
    block = next(size for size in (_BLOCK, 256, _LANES) if T % size == 0)
    kernel = splash.make_splash_mha_single_device(
        masks.MultiHeadMask([mask] * N),
        block_sizes=splash.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        attn_logits_soft_cap=options.softcap,
        interpret=interpret,
    )

    def one_row(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array) -> jax.Array:
        found: jax.Array = kernel(q, k, v, splash.SegmentIds(ids, ids), sinks)
        return found

    return jax.vmap(one_row)(q, k, v, ids)
