"""Linear layers on GPUs: quantized weights by a Pallas kernel, plain ones by XLA.

Triton compiles the kernel. It reads a tile of int8 or int4 numbers, turns it into x's dtype in
registers and multiplies on the tensor cores, so that only the numbers and their scales are read
from the GPU's memory. Biases, gates, residuals and adapters are fused by XLA. Sizes that the tiles
do not divide are computed as in the reference. Deliberately does not know the layers of a model.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from flaxen.kernels.interpret import by_platform
from flaxen.kernels.linear import quantized, reference
from flaxen.kernels.linear.quantized import QuantizedLinear, on_mesh, with_derivative

__all__ = ["linears", "multiply"]

_LEAST = 16  # the least size of each axis of a product on tensor cores
_PROGRAMS = 264  # two for each of the 132 multiprocessors of an H100
_MAX_SPLITS = 8
_FEW_ROWS = 64  # as many rows are computed with a program for each split of the inputs


class Tiles(NamedTuple):
    """The sizes of a product's tiles. `inputs` and `splits` decide the order of a row's additions;
    they follow from the weight alone, so a row's sum is the same whatever the other rows.
    """

    rows: int
    inputs: int
    outputs: int
    splits: int  # parts of the inputs, which are summed apart and then added in order


def choose_tiles(num_rows: int, weight: QuantizedLinear) -> Tiles | None:
    """The tiles for a product; None if the kernel does not have its sizes.

    Args:
      num_rows: the rows of x.
      weight: the weight.
    """
    num_inputs, num_outputs = weight.shape
    inputs = math.gcd(weight.group, 64)
    rows = next((n for n in (16, 32, 64) if num_rows <= n), 128)
    outputs = math.gcd(num_outputs, max(64, rows))
    if inputs < _LEAST or outputs < _LEAST:
        return None
    steps = num_inputs // inputs
    wanted = min(_MAX_SPLITS, -(-_PROGRAMS * 64 // num_outputs))
    splits = max(n for n in range(1, wanted + 1) if steps % n == 0)
    return Tiles(rows, inputs, outputs, splits)


def multiply(x: jax.Array, weight: QuantizedLinear) -> jax.Array:
    """Like `quantized.multiply`."""
    rows = x.reshape(-1, x.shape[-1])
    tiles = choose_tiles(rows.shape[0], weight)
    if tiles is None:
        return quantized.multiply(x, weight)
    out = multiply_in_tiles(rows, weight, tiles)
    return out.reshape(*x.shape[:-1], weight.shape[1])


def multiply_in_tiles(x: jax.Array, weight: QuantizedLinear, tiles: Tiles) -> jax.Array:
    """x @ weight by the kernel, [M, I] to [M, O] in float32."""
    num_rows = x.shape[0]
    padded = jnp.pad(x, ((0, -num_rows % tiles.rows), (0, 0)))
    kernel = functools.partial(_call, tiles=tiles, apart=num_rows <= _FEW_ROWS)
    parts = by_platform(kernel, padded, weight)
    out = parts[0]
    for split in range(1, parts.shape[0]):
        out = out + parts[split]
    if weight.has_one_group:
        out = quantized.scaled(out, weight)
    return out[:num_rows]


def _call(
    x: jax.Array, weight: QuantizedLinear, *, tiles: Tiles, apart: bool, interpret: bool
) -> jax.Array:
    """Computes each split [splits, M, O] apart, or their sum [1, M, O] in the same order.

    With few rows, a program for each split keeps the whole GPU busy. With many rows there are
    enough programs without it, and the splits would have to be written and read again.
    """
    num_rows, num_inputs = x.shape
    num_outputs = weight.shape[1]
    num_parts = tiles.splits if apart else 1
    steps = num_inputs // tiles.inputs // tiles.splits
    group = 0 if weight.has_one_group else weight.group

    def body(x_ref: Any, data_ref: Any, *others: Any) -> None:
        *per_group, out_ref = others

        def step(index: jax.Array, total: jax.Array) -> jax.Array:
            start = index * tiles.inputs
            rows = pl.ds(start, tiles.inputs)
            if group or weight.is_e2m1:
                values = quantized.numbers(data_ref[rows, :], weight)
            else:
                values = data_ref[rows, :].astype(x.dtype)
                values = values - weight.zero if weight.zero else values
            for place, ref in enumerate(per_group):  # scales, then mins
                each = ref[pl.ds(start // group, 1), :].astype(jnp.float32)
                values = values + each if place else values * each
            return total + _dot(x_ref[:, rows], values.astype(x.dtype))

        def part(split: Any) -> Any:
            zeros = jnp.zeros((tiles.rows, tiles.outputs), jnp.float32)
            return jax.lax.fori_loop(split * steps, (split + 1) * steps, step, zeros)

        total = part(pl.program_id(2) if apart else 0)
        if not apart and tiles.splits > 1:
            total = jax.lax.fori_loop(
                1, tiles.splits, lambda split, sums: sums + part(split), total
            )
        out_ref[0] = total

    operands = [x, weight.data]
    if group:
        operands += [each for each in (weight.scales, weight.mins) if each is not None]
    by_outputs = [
        pl.BlockSpec((each.shape[0], tiles.outputs), lambda i, j, k: (0, j))
        for each in operands[1:]
    ]
    out: jax.Array = pl.pallas_call(
        body,
        out_shape=jax.ShapeDtypeStruct((num_parts, num_rows, num_outputs), jnp.float32),
        grid=(num_rows // tiles.rows, num_outputs // tiles.outputs, num_parts),
        in_specs=[pl.BlockSpec((tiles.rows, num_inputs), lambda i, j, k: (i, 0)), *by_outputs],
        out_specs=pl.BlockSpec((1, tiles.rows, tiles.outputs), lambda i, j, k: (k, i, j)),
        compiler_params=triton.CompilerParams(
            num_warps=max(4, tiles.outputs // 16),
            # With few rows a product waits for memory: then more tiles are on their way at once.
            num_stages=8 if tiles.rows <= _FEW_ROWS else 4,
        ),
        interpret=interpret,
        name="quantized_linear",
    )(*operands)
    return out


def _dot(x: jax.Array, values: jax.Array) -> jax.Array:
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jnp.dot(x, values, precision=precision, preferred_element_type=jnp.float32)


linears = functools.partial(reference.linears, multiply=with_derivative(on_mesh(multiply)))
