"""Causal attention over packed segments: whole sequences, nothing cached."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def causal_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    window: int | None = None,
) -> Float[Array, "B T N H"]:
    """Each token attends to itself and to those before it in its own segment.

    Args:
      q: [B, T, N, H].
      k: [B, T, K, H]; N is a multiple of K.
      v: [B, T, K, H].
      segment_ids: [B, T] integers, equal within a segment; None is one segment a row.
      window: the number of tokens seen, the current one included; None sees all.

    Returns:
      [B, T, N, H] in q's dtype; scores and softmax are float32.
    """
    B, T, N, H = q.shape
    K = k.shape[2]
    grouped_q = q.reshape(B, T, K, N // K, H)
    scores = jnp.einsum("BTKGH,BSKH->BKGTS", grouped_q, k, preferred_element_type=jnp.float32)
    scores = scores * (H**-0.5)
    distance = jnp.arange(T)[:, None] - jnp.arange(T)[None, :]
    visible = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    visible_BTS = jnp.broadcast_to(visible[None], (B, T, T))
    if segment_ids is not None:
        visible_BTS = visible_BTS & (segment_ids[:, :, None] == segment_ids[:, None, :])
    scores = jnp.where(visible_BTS[:, None, None], scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("BKGTS,BSKH->BTKGH", weights, v, preferred_element_type=jnp.float32)
    return out.reshape(B, T, N, H).astype(q.dtype)
