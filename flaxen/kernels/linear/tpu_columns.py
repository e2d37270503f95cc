"""Looks up columns of a quantized table on TPUs, by a Pallas kernel.

XLA would copy the whole table to another layout first. The kernel fetches the 128 columns around
each token's own, which is the least that a TPU reads, and chooses among them by a product with a
one-hot vector, which is exact. Deliberately does not know products: tpu.py.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu

from flaxen.kernels.interpret import by_platform
from flaxen.kernels.linear import quantized, reference
from flaxen.kernels.linear.quantized import QuantizedLinear
from flaxen.kernels.linear.weight import LinearWeight

_LANES = 128  # of a vector register
_SUBLANES = 16
_VMEM_BYTES = 64 << 20


def embed(table: LinearWeight, ids: jax.Array, out_dtype: jnp.dtype) -> jax.Array:
    """Like `reference.embed`."""
    if not isinstance(table, QuantizedLinear):
        return reference.embed(table, ids, out_dtype)
    return _embed(table, ids, out_dtype)


@quantized.embed_on_mesh
def _embed(table: QuantizedLinear, ids: jax.Array, out_dtype: jnp.dtype) -> jax.Array:
    return quantized.embed(table, ids, out_dtype, take_columns)


def as_bits(per_group: jax.Array) -> jax.Array:
    """Float16 as its bits: a TPU has no float16."""
    if per_group.dtype == jnp.float16:
        return jax.lax.bitcast_convert_type(per_group, jnp.uint16)
    return per_group


def take_columns(array: jax.Array, columns: jax.Array) -> jax.Array:
    """Like `quantized.take_columns`, which copies nothing large of one row or of few columns."""
    if array.shape[0] == 1 or array.shape[1] < _LANES:
        return quantized.take_columns(array, columns)
    taken = by_platform(_call, columns.astype(jnp.int32), as_bits(array)).T
    if array.dtype == jnp.float16:
        return jax.lax.bitcast_convert_type(taken.astype(jnp.uint16), jnp.float16)
    return taken.astype(array.dtype)


def _call(columns: jax.Array, array: jax.Array, *, interpret: bool) -> jax.Array:
    num_rows, num_tokens = array.shape[0], columns.shape[0]
    # Numbers of four and eight bits are exact in bfloat16, and never NaN beyond the last column.
    is_exact = array.dtype in (jnp.int4, jnp.int8)
    dtype = jnp.bfloat16 if is_exact else jnp.float32

    def block_of(i: Any, ids: Any) -> tuple[Any, Any]:
        return 0, jax.lax.div(ids[i], _LANES)

    def body(columns_ref: Any, block_ref: Any, out_ref: Any) -> None:
        lane = jax.lax.rem(columns_ref[pl.program_id(0)], _LANES)
        values = block_ref[...]
        if values.dtype == jnp.uint16:
            values = values.astype(jnp.int32)
        values = values.astype(dtype)
        if not is_exact:
            lanes = jax.lax.broadcasted_iota(jnp.int32, values.shape, 1)
            values = jnp.where(lanes == lane, values, 0)
        lanes = jax.lax.broadcasted_iota(jnp.int32, (_SUBLANES, _LANES), 1)
        chosen = jnp.where(lanes == lane, 1.0, 0.0).astype(dtype)
        taken = jax.lax.dot_general(
            chosen,
            values,
            (((1,), (1,)), ((), ())),
            precision=None if is_exact else jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        out_ref[0] = taken[:1]

    out: jax.Array = pl.pallas_call(
        body,
        out_shape=jax.ShapeDtypeStruct((num_tokens, 1, num_rows), jnp.float32),
        grid_spec=tpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(num_tokens,),
            in_specs=[pl.BlockSpec((num_rows, _LANES), block_of)],
            out_specs=pl.BlockSpec((1, 1, num_rows), lambda i, ids: (i, 0, 0)),
        ),
        compiler_params=tpu.CompilerParams(vmem_limit_bytes=_VMEM_BYTES),
        interpret=interpret,
        name="quantized_columns",
    )(columns, array)
    return out[:, 0]
