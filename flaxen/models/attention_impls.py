"""The two `attend` of a model: over pages, to serve, and over packed segments, to train.

Each is a pytree, so that it crosses a jit with its arrays; its backend is static in there.
Deliberately does not know models, nor who runs them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax

from flaxen.kernels.backend import Backend
from flaxen.kernels.causal_attention import causal_attention
from flaxen.kernels.paged_attention import PagedBatch, paged_attention
from flaxen.models.model import Attend, AttentionSpec


def paged(batch: PagedBatch, backend: Backend) -> Attend:
    """Over one row of tokens [T] that mixes sequences, whose keys and values are kept in pages.

    Args:
      batch: which token belongs to which sequence and page.
      backend: the one that the pages were made for.
    """
    return _Paged(batch=batch, backend=backend)


def causal(segment_ids: jax.Array | None, backend: Backend) -> Attend:
    """Over rows of tokens [B, T]; nothing is kept.

    Args:
      segment_ids: [B, T], as `causal_attention` takes them.
      backend: what computes.
    """
    return _Causal(segment_ids=segment_ids, backend=backend)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _Paged:
    batch: PagedBatch
    backend: Backend = field(metadata={"static": True})

    def __call__(
        self, spec: AttentionSpec, q: jax.Array, k: jax.Array, v: jax.Array, cache: Any
    ) -> tuple[jax.Array, Any]:
        return paged_attention(
            *(q, k, v, cache, self.batch),
            window=spec.window,
            scale=spec.scale,
            softcap=spec.softcap,
            backend=self.backend,
        )


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
        )
        return out, cache
