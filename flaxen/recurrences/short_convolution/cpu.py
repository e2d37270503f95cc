"""The short convolution by the C++ kernel, with the reference's gradient.

The kernel has float32 and bfloat16; the reference computes other dtypes.
Deliberately does not know the algorithm: csrc/short_convolution.inc.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.kernels import derivatives
from flaxen.kernels.paged_batch import PagedBatch
from flaxen.recurrences.sequences import Segments, native
from flaxen.recurrences.short_convolution import reference


def short_convolution(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    states: jax.Array | None,
    batch: PagedBatch | Segments,
    has_silu: bool,
) -> tuple[jax.Array, jax.Array | None]:
    """See flaxen.recurrences.short_convolution.short_convolution."""
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        return reference.short_convolution(x, weight, bias, states, batch, has_silu)
    found: tuple[jax.Array, jax.Array | None]
    args = (x, weight, bias, states, batch)
    found = derivatives.with_gradient(_call, reference.short_convolution, args, (has_silu,))
    return found


def _call(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    states: jax.Array | None,
    batch: PagedBatch | Segments,
    has_silu: bool,
) -> tuple[jax.Array, jax.Array | None]:
    vectors = [each.astype(jnp.float32) for each in (weight, bias) if each is not None]
    return native(
        "short_convolution",
        (x, *vectors),
        jax.ShapeDtypeStruct(x.shape, x.dtype),
        states,
        batch,
        has_bias=np.bool_(bias is not None),
        is_silu=np.bool_(has_silu),
    )
