"""The short convolution by the C++ kernel, with the reference's gradient.

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


@derivatives.by_kernel(reference.short_convolution, num_options=1)
def short_convolution(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    states: jax.Array | None,
    batch: PagedBatch | Segments,
    has_silu: bool,
) -> tuple[jax.Array, jax.Array | None]:
    """See flaxen.recurrences.short_convolution.short_convolution."""
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
