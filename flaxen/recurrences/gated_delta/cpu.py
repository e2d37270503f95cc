"""The gated delta rule by the C++ kernel, with the reference's gradient.

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


@derivatives.by_kernel(reference.gated_delta)
def gated_delta(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    gates: Gates,
    states: jax.Array | None,
    batch: PagedBatch | Segments,
) -> tuple[jax.Array, jax.Array | None]:
    """See flaxen.recurrences.gated_delta.gated_delta."""
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
