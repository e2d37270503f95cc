"""The two `attend` of a model: over pages, to serve, and over packed segments, to train.

Deliberately does not know models, nor who runs them.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.tree_util import Partial

from flaxen.kernels.causal_attention import causal_attention
from flaxen.kernels.paged_attention import PagedBatch, paged_attention
from flaxen.models.model import Attend, AttentionSpec


def paged(batch: PagedBatch) -> Attend:
    """Over one row of tokens [T] that mixes sequences, whose keys and values are kept in pages."""
    return Partial(_paged, batch)


def causal(segment_ids: jax.Array | None) -> Attend:
    """Over rows of tokens [B, T]; nothing is kept.

    Args:
      segment_ids: [B, T], as `causal_attention` takes them.
    """
    return Partial(_causal, segment_ids)


def _paged(
    batch: PagedBatch, spec: AttentionSpec, q: jax.Array, k: jax.Array, v: jax.Array, entry: Any
) -> tuple[jax.Array, Any]:
    return paged_attention(
        *(q, k, v, entry, batch), window=spec.window, scale=spec.scale, softcap=spec.softcap
    )


def _causal(
    segment_ids: jax.Array | None,
    spec: AttentionSpec,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    entry: None,
) -> tuple[jax.Array, None]:
    out = causal_attention(
        *(q, k, v),
        segment_ids=segment_ids,
        window=spec.window,
        scale=spec.scale,
        softcap=spec.softcap,
    )
    return out, None
