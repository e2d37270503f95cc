"""Writes new keys and values to their pages, in place if the cache is donated."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flaxen.attention_kernels.paged_attention.pages import KvPages
from flaxen.attention_kernels.paged_attention.scales import quantize
from flaxen.kernels.paged_batch import PagedBatch


def write_pages(
    k: Float[Array, "T K H"], v: Float[Array, "T K V"] | None, cache: KvPages, batch: PagedBatch
) -> KvPages:
    """Writes k and v to their tokens' slots; padding tokens are dropped.

    Args:
      k: [T, K, H].
      v: [T, K, V], or None if the cache has keys alone.
      cache: keys and values, or keys.
      batch: the sequences and pages of the tokens.

    Raises:
      ValueError: there are values and no pages for them, or the other way.
    """
    if (v is None) != (cache.values is None):
        raise ValueError(
            "values go into pages that were made for them: values that are part of the keys (v is "
            "None) need pages with value_dim=0, and no others do"
        )
    num_pages, page_size = cache.keys.shape[:2]
    T = k.shape[0]
    sequences, positions = batch.token_sequences(T), batch.token_positions(T)
    pages = batch.page_table[sequences, jnp.maximum(positions, 0) // page_size]
    pages = jnp.where(positions >= 0, pages, num_pages)  # an index out of range is dropped
    slots = jnp.maximum(positions, 0) % page_size
    written: KvPages = jax.tree.map(
        lambda into, new: into.at[pages, slots].set(new, mode="drop"), cache, stored(k, v, cache)
    )
    return written


def stored(k: jax.Array, v: jax.Array | None, cache: KvPages) -> KvPages:
    """New keys and values as their pages hold them: [T, K, H or V], with scales [T, K, 1] if they
    have some.
    """
    if cache.key_scales is not None:
        assert v is not None, "pages with scales have keys and values"
        (keys, key_scales), (values, value_scales) = (quantize(x, cache.keys.dtype) for x in (k, v))
        return KvPages(keys, values, key_scales, value_scales)
    dtype = cache.keys.dtype
    return KvPages(as_stored(k, dtype), None if v is None else as_stored(v, dtype))


def as_stored(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Keys or values in the dtype of pages without scales. float8 has no infinity: what is larger
    than its largest number becomes that, and not NaN.
    """
    if dtype == jnp.float8_e4m3fn:
        largest = float(jnp.finfo(dtype).max)
        x = jnp.clip(x.astype(jnp.float32), -largest, largest)
    return x.astype(dtype)
