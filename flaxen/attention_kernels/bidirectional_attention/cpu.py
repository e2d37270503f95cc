"""Bidirectional attention by the C++ kernel, with the reference's gradient.

The kernel has float32 and bfloat16; the reference computes other dtypes. Deliberately does not know
the algorithm: csrc/bidirectional_attention.inc.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.attention_kernels.bidirectional_attention import reference
from flaxen.kernels import cpu_library, derivatives


def bidirectional_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array | None,
    window: int | None,
    scale: float,
) -> jax.Array:
    """See flaxen.kernels.bidirectional_attention.bidirectional_attention."""
    if not (q.dtype == k.dtype == v.dtype and q.dtype in (jnp.float32, jnp.bfloat16)):
        return reference.bidirectional_attention(q, k, v, segment_ids, window, scale)
    ids = None if segment_ids is None else jax.lax.stop_gradient(segment_ids)
    out: jax.Array = derivatives.with_gradient(
        _call, reference.bidirectional_attention, (q, k, v, ids), (window, scale)
    )
    return out


def _call(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array | None,
    window: int | None,
    scale: float,
) -> jax.Array:
    call = cpu_library.kernel("bidirectional_attention", jax.ShapeDtypeStruct(q.shape, q.dtype))
    out: jax.Array = call(
        *(q, k, v),
        *(() if segment_ids is None else (segment_ids.astype(jnp.int32),)),
        window=np.int64(window or 0),
        scale=np.float32(scale),
    )
    return out
