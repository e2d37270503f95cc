"""Writes new keys and values to their pages, in place if the cache is donated."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flaxen.kernels.paged_attention.batch import KvPages, PagedBatch


def write_pages(
    k: Float[Array, "T K H"], v: Float[Array, "T K H"], cache: KvPages, batch: PagedBatch
) -> KvPages:
    """Writes k and v [T, K, H] to their tokens' slots; padding tokens are dropped."""
    k_pages, v_pages = cache
    num_pages, page_size = k_pages.shape[:2]
    T = k.shape[0]
    sequences, positions = batch.token_sequences(T), batch.token_positions(T)
    pages = batch.page_table[sequences, jnp.maximum(positions, 0) // page_size]
    pages = jnp.where(positions >= 0, pages, num_pages)  # an index out of range is dropped
    slots = jnp.maximum(positions, 0) % page_size
    return (
        k_pages.at[pages, slots].set(as_stored(k, k_pages.dtype), mode="drop"),
        v_pages.at[pages, slots].set(as_stored(v, v_pages.dtype), mode="drop"),
    )


def as_stored(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Keys or values in the dtype of their pages. float8 has no infinity: what is larger than its
    largest number becomes that, and not NaN.
    """
    if dtype == jnp.float8_e4m3fn:
        largest = float(jnp.finfo(dtype).max)
        x = jnp.clip(x.astype(jnp.float32), -largest, largest)
    return x.astype(dtype)
