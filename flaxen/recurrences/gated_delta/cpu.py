"""The gated delta rule by the C++ kernel, with the reference's gradient.

The kernel has float32 and bfloat16; the reference computes other dtypes.
Deliberately does not know the algorithm: csrc/recurrence.inc.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.kernels import derivatives
from flaxen.kernels.paged_batch import PagedBatch
from flaxen.recurrences.gated_delta import reference
from flaxen.recurrences.gated_delta.reference import Gates
from flaxen.recurrences.sequences import Segments, native


def gated_delta(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    gates: Gates,
    states: jax.Array | None,
    batch: PagedBatch | Segments,
) -> tuple[jax.Array, jax.Array | None]:
    """See flaxen.recurrences.gated_delta.gated_delta."""
    if q.dtype not in (jnp.float32, jnp.bfloat16):
        return reference.gated_delta(q, k, v, gates, states, batch)
    found: tuple[jax.Array, jax.Array | None]
    args = (q, k, v, gates, states, batch)
    found = derivatives.with_gradient(_call, reference.gated_delta, args)
    return found


def _call(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    gates: Gates,
    states: jax.Array | None,
    batch: PagedBatch | Segments,
) -> tuple[jax.Array, jax.Array | None]:
    k, v, a, b = (each.astype(q.dtype) for each in (k, v, gates.a, gates.b))
    a_log, dt_bias = (each.astype(jnp.float32) for each in (gates.a_log, gates.dt_bias))
    return native(
        "recurrence",
        (q, k, v, a, a_log, dt_bias, b),
        jax.ShapeDtypeStruct(v.shape, q.dtype),
        states,
        batch,
        is_delta=np.bool_(True),
        dt_min=np.float32(0),
        dt_max=np.float32(np.inf),
    )
