"""Attention over paged keys and values: one ragged row of tokens mixes prefill and decode.

Every implementation has the signature of `reference.paged_attention`. Each backend has pages of
its own form, made by `empty_cache`: a cache belongs to the backend that it was made for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from flaxen.kernels.backend import Backend, find_implementation
from flaxen.kernels.paged_attention import blocked, cpu
from flaxen.kernels.paged_attention.batch import CpuPages, KvPages, PagedBatch

IMPLEMENTATIONS: Mapping[Backend, Callable[..., tuple[Any, Any]]] = {
    Backend.REFERENCE: blocked.paged_attention,
    Backend.CPU: cpu.paged_attention,
    Backend.GPU: blocked.paged_attention,
    Backend.TPU: blocked.paged_attention,
}
_EMPTY_PAGES: Mapping[Backend, Callable[..., KvPages | CpuPages]] = {
    Backend.REFERENCE: blocked.empty_pages,
    Backend.CPU: cpu.empty_pages,
    Backend.GPU: blocked.empty_pages,
    Backend.TPU: blocked.empty_pages,
}

__all__ = ["CpuPages", "KvPages", "PagedBatch", "empty_cache", "has_pages", "paged_attention"]


def empty_cache(
    num_pages: int,
    page_size: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: jnp.dtype,
    *,
    backend: Backend,
) -> KvPages | CpuPages:
    """A layer's pages, of zeros, in the form that the backend reads.

    Args:
      num_pages: how many.
      page_size: tokens; a multiple of 16 for the CPU's kernel, a divisor of 128 for XLA.
      num_kv_heads: K.
      head_dim: H; even for the CPU's kernel.
      dtype: float32 or bfloat16 for the CPU's kernel.
      backend: what will read them.

    Raises:
      ValueError: a size or dtype that the CPU's kernel does not have.
    """
    make = find_implementation("paged_attention", _EMPTY_PAGES, backend)
    return make(num_pages, page_size, num_kv_heads, head_dim, dtype)


def has_pages(head_dim: int, dtype: jnp.dtype, *, backend: Backend) -> bool:
    """Whether the backend has pages for such heads: `empty_cache` would not refuse them.

    Args:
      head_dim: H.
      dtype: of keys and values.
      backend: what will read them.
    """
    return backend is not Backend.CPU or cpu.has_heads(head_dim, dtype)


def paged_attention(
    q: Float[Array, "T N H"],
    k: Float[Array, "T K H"],
    v: Float[Array, "T K H"],
    cache: KvPages | CpuPages,
    batch: PagedBatch,
    *,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float32[Array, N] | None = None,
    backend: Backend,
) -> tuple[Float[Array, "T N H"], KvPages | CpuPages]:
    """As `reference.paged_attention`, over the backend's cache of `empty_cache`."""
    run = find_implementation("paged_attention", IMPLEMENTATIONS, backend)
    return run(q, k, v, cache, batch, window=window, scale=scale, softcap=softcap, sinks=sinks)
