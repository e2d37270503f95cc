"""Linear layers on a GPU in which a row has its own bits, whatever is beside it (decision 0270).

The libraries that XLA calls choose an algorithm by the number of rows, and with it the order in
which a row's products are summed. Here the order follows from the weight alone: tiles of one size,
and inputs in as many parts as the weight's size asks for. Deliberately does not know the layers of
a model.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from flaxen.kernels import derivatives
from flaxen.kernels.interpret import by_platform
from flaxen.kernels.linear import gpu, reference
from flaxen.kernels.linear.quantized import QuantizedLinear, with_derivative
from flaxen.kernels.rms_norm import gpu_invariant as rms_norm

__all__ = ["dot", "linears", "unembed"]

# The tile: 64 rows are the fewest of a warp group's product (wgmma), which every step then uses.
_ROWS, _OUTPUTS, _INPUTS = 64, 64, 64
_PROGRAMS = 264  # two for each of the 132 multiprocessors of an H100
_MAX_PARTS = 8
_FEW_ROWS = 256  # as many rows are computed with a program for each part of the inputs


class _Sizes(NamedTuple):
    parts: int  # of the inputs, which are summed apart and then added in order
    part_inputs: int  # a multiple of the tile's
    has_own_programs: bool  # each part; if not, one program computes all
    is_transposed: bool  # the weight is [O, I]


def dot(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x [..., I] @ weight [I, O], in float32."""
    return _product(x, weight, False)


def unembed(x: jax.Array, table: jax.Array) -> jax.Array:
    """The products of x [..., D] with the rows of a table [V, D], in float32."""
    return _product(x, table, True)


def multiply(x: jax.Array, weight: QuantizedLinear) -> jax.Array:
    """x @ weight, in float32, by tiles of as many rows in every step.

    Raises:
      ValueError: the kernel for quantized weights does not have the weight's sizes.
    """
    tiles = gpu.choose_tiles(_ROWS, weight)
    if tiles is None:
        raise ValueError(
            f"a quantized weight {list(weight.shape)} in groups of {weight.group} has no kernel "
            "whose rows have bits of their own: leave out --batch-invariant, or use "
            "--quantization none"
        )
    rows = x.reshape(-1, x.shape[-1])
    out = gpu.multiply_in_tiles(rows, weight, tiles)
    return out.reshape(*x.shape[:-1], weight.shape[1])


linears = functools.partial(
    reference.linears,
    multiply=with_derivative(multiply),
    dot=dot,
    normalize=rms_norm.rms_norm,
)


def _product(x: jax.Array, weight: jax.Array, is_transposed: bool) -> jax.Array:
    num_outputs, num_inputs = weight.shape if is_transposed else weight.shape[::-1]
    rows = x.reshape(-1, num_inputs)
    plain = reference.unembed if is_transposed else reference.dot

    def kernel(rows: jax.Array, weight: jax.Array) -> jax.Array:
        sizes = _choose(rows.shape[0], num_inputs, num_outputs, is_transposed)
        parts = by_platform(functools.partial(_call, sizes=sizes), rows, weight)
        out = parts[0]
        for part in range(1, parts.shape[0]):
            out = out + parts[part]
        return out

    out: jax.Array = derivatives.call(kernel, plain, (rows, weight))
    return out.reshape(*x.shape[:-1], num_outputs)


def _choose(num_rows: int, num_inputs: int, num_outputs: int, is_transposed: bool) -> _Sizes:
    """The parts follow from the weight; the number of rows only decides who computes them."""
    steps = -(-num_inputs // _INPUTS)
    wanted = -(-_PROGRAMS * _OUTPUTS // num_outputs)
    part_steps = -(-steps // max(1, min(_MAX_PARTS, wanted, steps)))
    return _Sizes(
        parts=-(-steps // part_steps),
        part_inputs=part_steps * _INPUTS,
        has_own_programs=num_rows <= _FEW_ROWS,
        is_transposed=is_transposed,
    )


def _call(x: jax.Array, weight: jax.Array, *, sizes: _Sizes, interpret: bool) -> jax.Array:
    """Each part [parts, M, O] apart, or their sum [1, M, O] in the same order."""
    num_rows, num_outputs = x.shape[0], weight.shape[0 if sizes.is_transposed else 1]
    num_parts = sizes.parts if sizes.has_own_programs else 1
    out: jax.Array = pl.pallas_call(
        functools.partial(_kernel, sizes=sizes),
        out_shape=jax.ShapeDtypeStruct((num_parts, num_rows, num_outputs), jnp.float32),
        grid=(-(-num_rows // _ROWS), -(-num_outputs // _OUTPUTS), num_parts),
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=4),
        interpret=interpret,
        name="invariant_linear",
    )(x, weight)
    return out


def _kernel(x: Any, weight: Any, out: Any, *, sizes: _Sizes) -> None:
    num_rows, num_inputs = x.shape
    num_outputs = out.shape[2]
    rows = pl.program_id(0) * _ROWS + jnp.arange(_ROWS)
    columns = pl.program_id(1) * _OUTPUTS + jnp.arange(_OUTPUTS)
    is_row, is_column = rows < num_rows, columns < num_outputs

    def part(index: Any) -> jax.Array:
        start = index * (sizes.part_inputs // _INPUTS)
        stop = jnp.minimum(start + sizes.part_inputs // _INPUTS, pl.cdiv(num_inputs, _INPUTS))

        def step(i: jax.Array, total: jax.Array) -> jax.Array:
            inputs = i * _INPUTS + jnp.arange(_INPUTS)
            is_input = inputs < num_inputs
            x_tile = plgpu.load(
                x.at[rows[:, None], inputs[None]], mask=is_row[:, None] & is_input[None], other=0
            )
            if sizes.is_transposed:
                at, mask = (columns[:, None], inputs[None]), is_column[:, None] & is_input[None]
            else:
                at, mask = (inputs[:, None], columns[None]), is_input[:, None] & is_column[None]
            tile = plgpu.load(weight.at[at], mask=mask, other=0).astype(x_tile.dtype)
            product: jax.Array = plgpu.dot(
                x_tile, tile, trans_b=sizes.is_transposed, precision=lax.Precision.HIGHEST
            )
            return total + product

        sums: jax.Array = lax.fori_loop(
            start, stop, step, jnp.zeros((_ROWS, _OUTPUTS), jnp.float32)
        )
        return sums

    total = part(pl.program_id(2))
    if not sizes.has_own_programs:
        for index in range(1, sizes.parts):
            total = total + part(index)
    plgpu.store(
        out.at[pl.program_id(2), rows[:, None], columns[None]],
        total,
        mask=is_row[:, None] & is_column[None],
    )
