"""Mamba-2's state space by the C++ kernel, with the reference's gradient.

The kernel has float32 and bfloat16; the reference computes other dtypes.
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
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        return reference.state_space(x, b, c, dynamics, states, batch, dt_limit)
    found: tuple[jax.Array, jax.Array | None]
    args = (x, b, c, dynamics, states, batch)
    found = derivatives.with_gradient(_call, reference.state_space, args, (dt_limit,))
    return found


def _call(
    x: jax.Array,
    b: jax.Array,
    c: jax.Array,
    dynamics: Dynamics,
    states: jax.Array | None,
    batch: PagedBatch | Segments,
    dt_limit: tuple[float, float],
) -> tuple[jax.Array, jax.Array | None]:
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
