"""Bidirectional attention in plain jnp: all scores at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def bidirectional_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array | None,
    window: int | None,
    scale: float,
) -> jax.Array:
    """See flaxen.kernels.bidirectional_attention.bidirectional_attention."""
    B, T, N, H = q.shape
    K = k.shape[2]
    grouped = q.reshape(B, T, K, N // K, H)
    scores = jnp.einsum("BTKGH,BSKH->BKGTS", grouped, k, preferred_element_type=jnp.float32)
    visible = jnp.broadcast_to(_visible(segment_ids, B, T, window)[:, None, None], scores.shape)
    weights = jax.nn.softmax(scores * scale, axis=-1, where=visible).astype(v.dtype)
    out = jnp.einsum("BKGTS,BSKH->BTKGH", weights, v, preferred_element_type=jnp.float32)
    return out.reshape(B, T, N, H).astype(q.dtype)


def _visible(segment_ids: jax.Array | None, B: int, T: int, window: int | None) -> jax.Array:
    """The mask [B, T, T] of the keys that each query sees."""
    distance = jnp.abs(jnp.arange(T)[:, None] - jnp.arange(T)[None, :])
    visible = distance <= (T if window is None else window)
    visible = jnp.broadcast_to(visible[None], (B, T, T))
    if segment_ids is None:
        return visible
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    return visible & same & (segment_ids != 0)[:, :, None]
