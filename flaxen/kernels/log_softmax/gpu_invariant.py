"""Log-probabilities on a GPU by a Pallas kernel: one program for each row, which sums in one order.

Deliberately does not know what the rows mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float32

from flaxen.kernels import derivatives
from flaxen.kernels.interpret import by_platform
from flaxen.kernels.log_softmax import reference

_LANES = 4096  # numbers of a row that are in registers at once


def log_softmax(logits: Float32[Array, "*B V"]) -> Float32[Array, "*B V"]:
    """See flaxen.kernels.log_softmax.log_softmax."""
    out: jax.Array = derivatives.call(_log_softmax, reference.log_softmax, (logits,))
    return out


def row_sum(x: Float32[Array, "S V"]) -> Float32[Array, S]:
    """The sum of each row, in one order."""
    return _by_row(_sum_kernel, x, x.shape[:1])


def _log_softmax(logits: jax.Array) -> jax.Array:
    rows = logits.reshape(-1, logits.shape[-1])
    return _by_row(_log_softmax_kernel, rows, rows.shape).reshape(logits.shape)


def _by_row(kernel: Callable[..., None], rows: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    def run(rows: jax.Array, *, interpret: bool) -> jax.Array:
        out: jax.Array = pl.pallas_call(
            kernel,
            out_shape=jax.ShapeDtypeStruct(shape, jnp.float32),
            grid=(rows.shape[0],),
            compiler_params=plgpu.CompilerParams(num_warps=8, num_stages=1),
            interpret=interpret,
            name="invariant_rows",
        )(rows)
        return out

    return by_platform(run, rows)


def _log_softmax_kernel(x: Any, out: Any) -> None:
    row = pl.program_id(0)
    lowest = jnp.full((_LANES,), -jnp.inf, jnp.float32)
    maxima = _fold(x, lambda total, values: jnp.maximum(total, values), lowest, -jnp.inf)
    maximum = jnp.max(maxima)
    sums = _fold(
        x, lambda total, values: total + jnp.exp(values - maximum), jnp.zeros_like(lowest), -jnp.inf
    )
    log_sum = jnp.log(jnp.sum(sums))

    def write(i: jax.Array, nothing: jax.Array) -> jax.Array:
        at, mask = _lanes(x, i)
        values = plgpu.load(x.at[row, at], mask=mask, other=0)
        plgpu.store(out.at[row, at], values - maximum - log_sum, mask=mask)
        return nothing

    lax.fori_loop(0, pl.cdiv(x.shape[1], _LANES), write, jnp.int32(0))


def _sum_kernel(x: Any, out: Any) -> None:
    zeros = jnp.zeros((_LANES,), jnp.float32)
    out[pl.program_id(0)] = jnp.sum(_fold(x, lambda total, values: total + values, zeros, 0.0))


def _fold(
    x: Any, add: Callable[[jax.Array, jax.Array], jax.Array], first: jax.Array, other: float
) -> jax.Array:
    """Adds the numbers of the program's row to _LANES totals, each in the order of the row."""
    row = pl.program_id(0)

    def step(i: jax.Array, total: jax.Array) -> jax.Array:
        at, mask = _lanes(x, i)
        values = plgpu.load(x.at[row, at], mask=mask, other=other)
        return add(total, values)

    total: jax.Array = lax.fori_loop(0, pl.cdiv(x.shape[1], _LANES), step, first)
    return total


def _lanes(x: Any, i: jax.Array) -> tuple[jax.Array, jax.Array]:
    at = i * _LANES + jnp.arange(_LANES)
    return at, at < x.shape[1]
