"""The two implementations of `attend`: over pages for serving, over packed segments for training.

Each is a pytree, so that it crosses a jit with its arrays; its backend and mesh are static in
there.
Deliberately does not know models, nor who runs them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
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
    page_axes,
    paged_attention,
)
from flaxen.models.cache import Full, Sliding
from flaxen.models.model import Attend, AttentionSpec
from flaxen.models.sharded_attention import num_page_heads, over_pages, over_segments
from flaxen.sharding.placement import Placement


def paged(
    batches: tuple[PagedBatch, ...], backend: Backend, placement: Placement | None = None
) -> Attend:
    """Over one row of tokens [T] that mixes sequences, whose keys and values are in LayerPages.

    Args:
      batches: which token belongs to which sequence and page, for each cache group.
      backend: the one that the pages were made for.
      placement: the mesh that the pages are laid over; None is one device.
    """
    return _Paged(batches=batches, backend=backend, placement=placement)


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
    placement: Placement | None = None,
) -> LayerPages:
    """Makes empty pages for one layer, as `paged` takes them.

    Args:
      spec: the layer's.
      num_pages: how many.
      page_size: tokens.
      dtype: of keys and values.
      group: which of the batches has the layer's page table.
      backend: what will read them.
      placement: the mesh that they are laid over, within a jit; None is one device.

    Raises:
      ValueError: a size or dtype that the backend does not have.
    """
    heads = num_page_heads(spec.num_kv_heads, placement), spec.head_dim
    pages = empty_cache(num_pages, page_size, *heads, dtype, backend=backend)
    if placement is not None:
        axes = page_axes(backend)
        pages = jax.tree.map(
            lambda each: jax.lax.with_sharding_constraint(
                each, placement.sharding(axes, each.shape)
            ),
            pages,
        )
    return LayerPages(pages=pages, group=group)


def causal(
    segment_ids: jax.Array | None, backend: Backend, placement: Placement | None = None
) -> Attend:
    """Attention over rows of tokens [B, T], without a cache.

    Args:
      segment_ids: [B, T], as in `causal_attention`.
      backend: the backend that computes.
      placement: the mesh that computes; None is one device.
    """
    return _Causal(segment_ids=segment_ids, backend=backend, placement=placement)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _Paged:
    batches: tuple[PagedBatch, ...]
    backend: Backend = field(metadata={"static": True})
    placement: Placement | None = field(metadata={"static": True})

    def __call__(
        self, spec: AttentionSpec, q: jax.Array, k: jax.Array, v: jax.Array, cache: LayerPages
    ) -> tuple[jax.Array, LayerPages]:
        run: Callable[..., tuple[jax.Array, Any]] = functools.partial(
            paged_attention,
            window=spec.window,
            scale=spec.scale,
            softcap=spec.softcap,
            backend=self.backend,
        )
        if self.placement is not None:
            run = over_pages(run, self.placement, page_axes(self.backend))
        out, pages = run(q, k, v, cache.pages, self.batches[cache.group])
        return out, LayerPages(pages=pages, group=cache.group)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _Causal:
    segment_ids: jax.Array | None
    backend: Backend = field(metadata={"static": True})
    placement: Placement | None = field(metadata={"static": True})

    def __call__(
        self, spec: AttentionSpec, q: jax.Array, k: jax.Array, v: jax.Array, cache: Any
    ) -> tuple[jax.Array, Any]:
        def run(
            q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None
        ) -> jax.Array:
            return causal_attention(
                *(q, k, v),
                segment_ids=segment_ids,
                window=spec.window,
                scale=spec.scale,
                softcap=spec.softcap,
                backend=self.backend,
            )

        on_mesh = run if self.placement is None else over_segments(run, self.placement)
        return on_mesh(q, k, v, self.segment_ids), cache
