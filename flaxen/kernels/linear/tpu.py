"""Linear layers on TPUs: quantized weights without an expanded copy of them in the TPU's memory.

With one group, XLA converts the numbers as it reads them, and scales the sums: no kernel is needed.
With several it would write the weight's values to memory first, so a Pallas kernel makes them in
VMEM, tile by tile. Numbers of inputs that the tiles do not divide are computed as in the reference.
Deliberately does not know the layers of a model.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu

from flaxen.kernels.interpret import by_platform
from flaxen.kernels.linear import quantized, reference
from flaxen.kernels.linear.quantized import QuantizedLinear, on_mesh, with_derivative
from flaxen.kernels.linear.tpu_columns import as_bits, embed

__all__ = ["embed", "linears", "multiply"]

_LANES = 128  # of a vector register
_SUBLANES = 8
_MOST_INPUTS = 1024
_MOST_OUTPUTS = 512
_MOST_ROWS = 512
_VMEM_BYTES = 64 << 20


class Tiles(NamedTuple):
    """The sizes of a product's tiles. A row's additions are ordered by `inputs`, which follows from
    the weight alone, so a row's sum is the same whatever the other rows.
    """

    rows: int
    inputs: int
    outputs: int


def choose_tiles(num_rows: int, weight: QuantizedLinear) -> Tiles | None:
    """The tiles for a product; None if the kernel does not have its sizes.

    Args:
      num_rows: the rows of x.
      weight: the weight.
    """
    num_inputs, num_outputs = weight.shape
    # A tile of scales has a multiple of eight rows, or all of them.
    unit = _SUBLANES * weight.group
    divisors = [n for n in range(unit, _MOST_INPUTS + 1, unit) if num_inputs % n == 0]
    inputs = max(divisors, default=num_inputs)
    if weight.group % 32 or inputs > 2 * _MOST_INPUTS:
        return None
    outputs = min(_MOST_OUTPUTS, _up(num_outputs, _LANES))
    return Tiles(min(_MOST_ROWS, _up(num_rows, 16)), inputs, outputs)


def multiply(x: jax.Array, weight: QuantizedLinear) -> jax.Array:
    """Like `quantized.multiply`."""
    rows = x.reshape(-1, x.shape[-1])
    tiles = None if weight.has_one_group else choose_tiles(rows.shape[0], weight)
    if tiles is None:
        return quantized.multiply(x, weight)
    out = multiply_in_tiles(rows, weight, tiles)
    return out.reshape(*x.shape[:-1], weight.shape[1])


def multiply_in_tiles(x: jax.Array, weight: QuantizedLinear, tiles: Tiles) -> jax.Array:
    """x @ weight by the kernel, [M, I] to [M, O] in float32."""
    num_rows = x.shape[0]
    padded = jnp.pad(x, ((0, -num_rows % tiles.rows), (0, 0)))
    out: jax.Array = by_platform(functools.partial(_call, tiles=tiles), padded, weight)
    return out[:num_rows]


def _call(x: jax.Array, weight: QuantizedLinear, *, tiles: Tiles, interpret: bool) -> jax.Array:
    num_rows, num_inputs = x.shape
    num_outputs = weight.shape[1]
    num_steps = num_inputs // tiles.inputs
    num_groups = tiles.inputs // weight.group

    def body(x_ref: Any, data_ref: Any, scales_ref: Any, *others: Any) -> None:
        *mins_ref, out_ref = others
        step = pl.program_id(2)
        values = quantized.numbers(data_ref[...], weight)
        values = values.reshape(num_groups, weight.group, tiles.outputs)
        values = values * _wide(scales_ref)
        if mins_ref:
            values = values + _wide(mins_ref[0])
        values = values.reshape(tiles.inputs, tiles.outputs).astype(x.dtype)
        product = _dot(x_ref[...], values)

        @pl.when(step == 0)
        def _first() -> None:
            out_ref[...] = product

        @pl.when(step > 0)
        def _later() -> None:
            out_ref[...] += product

    per_group = [as_bits(each) for each in (weight.scales, weight.mins) if each is not None]
    groups_spec = pl.BlockSpec((num_groups, tiles.outputs), lambda i, j, k: (k, j))
    # The last tile of outputs may reach beyond the weight: what it computes there is not written.
    out: jax.Array = pl.pallas_call(
        body,
        out_shape=jax.ShapeDtypeStruct((num_rows, num_outputs), jnp.float32),
        grid=(num_rows // tiles.rows, pl.cdiv(num_outputs, tiles.outputs), num_steps),
        in_specs=[
            pl.BlockSpec((tiles.rows, tiles.inputs), lambda i, j, k: (i, k)),
            pl.BlockSpec((tiles.inputs, tiles.outputs), lambda i, j, k: (k, j)),
            *(groups_spec for _ in per_group),
        ],
        out_specs=pl.BlockSpec((tiles.rows, tiles.outputs), lambda i, j, k: (i, j)),
        compiler_params=tpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"),
            vmem_limit_bytes=_VMEM_BYTES,
        ),
        interpret=interpret,
        name="quantized_linear",
    )(x, weight.data, *per_group)
    return out


def _wide(ref: Any) -> jax.Array:
    """A tile of scales or mins [groups, 1, O] in float32."""
    found: jax.Array = ref[...]
    if found.dtype == jnp.uint16:
        found = half_to_float(found.astype(jnp.int32))
    return found[:, None]


def half_to_float(bits: jax.Array) -> jax.Array:
    """The float32 values of float16s that are given as int32 bits."""
    magnitude = bits & 0x7FFF
    exponent, fraction = magnitude >> 10, magnitude & 0x3FF
    # The bits of float32, whose exponent counts from 112 lower; inf and NaN have all bits set.
    bias = jnp.where(exponent == 31, 224, 112)
    normal = jax.lax.bitcast_convert_type((magnitude << 13) + (bias << 23), jnp.float32)
    tiny = fraction.astype(jnp.float32) * 2.0**-24
    value = jnp.where(exponent == 0, tiny, normal)
    return jnp.where(bits >= 0x8000, -value, value)


def _dot(x: jax.Array, values: jax.Array) -> jax.Array:
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jnp.dot(x, values, precision=precision, preferred_element_type=jnp.float32)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


linears = functools.partial(reference.linears, multiply=with_derivative(on_mesh(multiply)))
