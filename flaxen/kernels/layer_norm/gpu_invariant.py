"""The layer norm on a GPU by a Pallas kernel: one program a row, which sums in one order."""

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
from flaxen.kernels.layer_norm import reference


def layer_norm(
    x: Float[Array, "*B D"], weight: Float[Array, D], bias: Float[Array, D] | None, eps: float
) -> Float[Array, "*B D"]:
    """See flaxen.kernels.layer_norm.layer_norm."""
    args = (x, weight, bias)
    out: jax.Array = derivatives.call(_call, reference.layer_norm, args, (float(eps),))
    return out


def _call(x: jax.Array, weight: jax.Array, bias: jax.Array | None, eps: float) -> jax.Array:
    rows = x.reshape(-1, x.shape[-1])

    def run(rows: jax.Array, weight: jax.Array, bias: jax.Array, *, interpret: bool) -> jax.Array:
        normed: jax.Array = pl.pallas_call(
            functools.partial(_kernel, eps=eps),
            out_shape=jax.ShapeDtypeStruct(rows.shape, rows.dtype),
            grid=(rows.shape[0],),
            compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
            interpret=interpret,
            name="invariant_layer_norm",
        )(rows, weight, bias)
        return normed

    weight = weight.astype(x.dtype)
    added = jnp.zeros_like(weight) if bias is None else bias.astype(x.dtype)
    return by_platform(run, rows, weight, added).reshape(x.shape)


def _kernel(x: Any, weight: Any, bias: Any, out: Any, *, eps: float) -> None:
    row, width = pl.program_id(0), x.shape[1]
    lanes = jnp.arange(1 << (width - 1).bit_length())
    mask = lanes < width

    def read(ref: Any) -> jax.Array:
        found: jax.Array = plgpu.load(ref, mask=mask, other=0)
        return found.astype(jnp.float32)

    values = read(x.at[row, lanes])
    centred = jnp.where(mask, values - jnp.sum(values) / width, 0)
    scale = jax.lax.rsqrt(jnp.sum(centred * centred) / width + eps)
    normed = centred * scale * read(weight.at[lanes]) + read(bias.at[lanes])
    plgpu.store(out.at[row, lanes], normed.astype(out.dtype), mask=mask)
