"""Attention over paged keys and values: one ragged row of tokens mixes prefill and decode.

Every implementation has the signature of `reference.paged_attention`. Which one runs is decided by
how the cache lies: the C++ kernel has its own pages, made by `empty_cache`.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from flaxen.kernels.paged_attention import blocked, native
from flaxen.kernels.paged_attention.batch import KvPages, NativePages, PagedBatch

__all__ = ["KvPages", "NativePages", "PagedBatch", "empty_cache", "paged_attention"]


def empty_cache(
    num_pages: int,
    page_size: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: jnp.dtype,
    *,
    use_native: bool,
) -> KvPages | NativePages:
    """A layer's pages, of zeros, as the C++ kernel reads them or as XLA does.

    Args:
      num_pages: how many.
      page_size: tokens; a multiple of 16 for the kernel, a divisor of 128 for XLA.
      num_kv_heads: K.
      head_dim: H; even for the kernel.
      dtype: float32 or bfloat16 for the kernel.
      use_native: for the kernel.

    Raises:
      ValueError: a size or dtype that the kernel has not.
    """
    if use_native:
        return native.empty_pages(num_pages, page_size, num_kv_heads, head_dim, dtype)
    shape = (num_pages, page_size, num_kv_heads, head_dim)
    return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)


def paged_attention(
    q: Float[Array, "T N H"],
    k: Float[Array, "T K H"],
    v: Float[Array, "T K H"],
    cache: KvPages | NativePages,
    batch: PagedBatch,
    *,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float32[Array, N] | None = None,
) -> tuple[Float[Array, "T N H"], KvPages | NativePages]:
    """As `reference.paged_attention`, over either cache of `empty_cache`."""
    if isinstance(cache, tuple):
        return blocked.paged_attention(
            q, k, v, cache, batch, window=window, scale=scale, softcap=softcap, sinks=sinks
        )
    return native.paged_attention(
        q, k, v, cache, batch, window=window, scale=scale, softcap=softcap, sinks=sinks
    )
