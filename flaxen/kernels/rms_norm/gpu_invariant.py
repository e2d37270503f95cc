"""The RMS norm on a GPU by a Pallas kernel: one program for each row, which sums in one order."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

from flaxen.kernels import derivatives
from flaxen.kernels.interpret import by_platform
from flaxen.kernels.rms_norm import reference


def rms_norm(x: Float[Array, "*B D"], weight: Float[Array, D], eps: float) -> Float[Array, "*B D"]:
    """See flaxen.kernels.rms_norm.rms_norm."""
    out: jax.Array = derivatives.call(_call, reference.rms_norm, (x, weight), (float(eps),))
    return out


def _call(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    rows = x.reshape(-1, x.shape[-1])

    def run(rows: jax.Array, weight: jax.Array, *, interpret: bool) -> jax.Array:
        normed: jax.Array = pl.pallas_call(
            functools.partial(_kernel, eps=eps),
            out_shape=jax.ShapeDtypeStruct(rows.shape, rows.dtype),
            grid=(rows.shape[0],),
            compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
            interpret=interpret,
            name="invariant_rms_norm",
        )(rows, weight)
        return normed

    return by_platform(run, rows, weight.astype(x.dtype)).reshape(x.shape)


def _kernel(x: Any, weight: Any, out: Any, *, eps: float) -> None:
    row, width = pl.program_id(0), x.shape[1]
    lanes = jnp.arange(1 << (width - 1).bit_length())
    mask = lanes < width
    values = plgpu.load(x.at[row, lanes], mask=mask, other=0).astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.sum(values * values) / width + eps)
    normed = (values * scale).astype(out.dtype)
    by = plgpu.load(weight.at[lanes], mask=mask, other=0)
    plgpu.store(out.at[row, lanes], normed * by, mask=mask)
