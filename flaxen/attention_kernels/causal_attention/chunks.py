"""Chunked causal attention as attention over finer segments: each chunk of a segment is one.

So an implementation of causal attention needs no chunks of its own. Deliberately does not know any.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def chunk_segments(
    segment_ids: jax.Array | None, shape: tuple[int, ...], chunk: int | None
) -> jax.Array | None:
    """Segment ids [B, S] in which each chunk of a segment has one of its own; 0 stays padding.

    Args:
      segment_ids: [B, S], equal within a segment; None if each row is one.
      shape: B and S.
      chunk: tokens of a chunk, counted from the segment's first; None leaves the ids.
    """
    if chunk is None:
        return segment_ids
    ids = jnp.ones(shape, jnp.int32) if segment_ids is None else segment_ids
    places = jnp.arange(shape[1], dtype=jnp.int32)[None]
    is_first = jnp.pad(ids[:, 1:] != ids[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    starts = jax.lax.cummax(jnp.where(is_first, places, 0), axis=1)
    begins = (places - starts) % chunk == 0
    finer = jnp.cumsum(begins.astype(jnp.int32), axis=1)
    return jnp.where(ids == 0, 0, finer)
