"""The two implementations of `attend`: over pages for serving, over packed segments for training.

Each is a pytree, so that it crosses a jit with its arrays; its backend is static in there.
Deliberately does not know models, nor who runs them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from flaxen.kernels.backend import Backend
from flaxen.kernels.causal_attention import causal_attention
from flaxen.kernels.paged_attention import (
    CpuPages,
    KvPages,
    PagedBatch,
    empty_cache,
    paged_attention,
)
from flaxen.models.cache import Full, Sliding
from flaxen.models.model import Attend, AttentionSpec


def paged(batches: tuple[PagedBatch, ...], backend: Backend) -> Attend:
    """Over one row of tokens [T] that mixes sequences, whose keys and values are in LayerPages.

    Args:
      batches: which token belongs to which sequence and page, for each cache group.
      backend: the one that the pages were made for.
    """
    return _Paged(batches=batches, backend=backend)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class LayerPages:
    """The pages of one layer, and the cache group whose page tables name them."""

    pages: KvPages | CpuPages
    group: int = field(metadata={"static": True})


def empty_layer(
    spec: Full | Sliding,
    num_pages: int,
    page_size: int,
    dtype: jnp.dtype,
    *,
    group: int = 0,
    backend: Backend,
) -> LayerPages:
    """Makes empty pages for one layer, as `paged` takes them.

    Args:
      spec: the layer's.
      num_pages: how many.
      page_size: tokens.
      dtype: of keys and values.
      group: which of the batches has the layer's page table.
      backend: what will read them.

    Raises:
      ValueError: a size or dtype that the backend does not have.
    """
    heads = spec.num_kv_heads, spec.head_dim
    pages = empty_cache(num_pages, page_size, *heads, dtype, backend=backend)
    return LayerPages(pages=pages, group=group)


def causal(segment_ids: jax.Array | None, backend: Backend) -> Attend:
    """Attention over rows of tokens [B, T], without a cache.

    Args:
      segment_ids: [B, T], as in `causal_attention`.
      backend: the backend that computes.
    """
    return _Causal(segment_ids=segment_ids, backend=backend)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _Paged:
    batches: tuple[PagedBatch, ...]
    backend: Backend = field(metadata={"static": True})

    def __call__(
        self, spec: AttentionSpec, q: jax.Array, k: jax.Array, v: jax.Array, cache: LayerPages
    ) -> tuple[jax.Array, LayerPages]:
        out, pages = paged_attention(
            *(q, k, v, cache.pages, self.batches[cache.group]),
            window=spec.window,
            scale=spec.scale,
            softcap=spec.softcap,
            backend=self.backend,
        )
        return out, LayerPages(pages=pages, group=cache.group)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _Causal:
    segment_ids: jax.Array | None
    backend: Backend = field(metadata={"static": True})

    def __call__(
        self, spec: AttentionSpec, q: jax.Array, k: jax.Array, v: jax.Array, cache: Any
    ) -> tuple[jax.Array, Any]:
        out = causal_attention(
            *(q, k, v),
            segment_ids=self.segment_ids,
            window=spec.window,
            scale=spec.scale,
            softcap=spec.softcap,
            backend=self.backend,
        )
        return out, cache
