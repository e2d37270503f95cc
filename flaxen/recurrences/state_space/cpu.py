"""Mamba-2's state space by the C++ kernel, with the reference's gradient.

Deliberately does not know the algorithm: csrc/recurrence.inc.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.kernels import derivatives
from flaxen.kernels.paged_batch import PagedBatch
from flaxen.recurrences.sequences import Segments, native
from flaxen.recurrences.state_space import reference
from flaxen.recurrences.state_space.reference import Dynamics


@derivatives.by_kernel(reference.state_space, num_options=1)
def state_space(
    x: jax.Array,
    b: jax.Array,
    c: jax.Array,
    dynamics: Dynamics,
    states: jax.Array | None,
    batch: PagedBatch | Segments,
    dt_limit: tuple[float, float],
) -> tuple[jax.Array, jax.Array | None]:
    """See flaxen.recurrences.state_space.state_space."""
    b, c, dt = (each.astype(x.dtype) for each in (b, c, dynamics.dt))
    a_log, dt_bias, skip = (each.astype(jnp.float32) for each in dynamics[1:])
    return native(
        "recurrence",
        (c, b, x, dt, a_log, dt_bias, skip),
        jax.ShapeDtypeStruct(x.shape, x.dtype),
        states,
        batch,
        is_delta=np.bool_(False),
        dt_min=np.float32(dt_limit[0]),
        dt_max=np.float32(dt_limit[1]),
    )
