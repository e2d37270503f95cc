"""Linear layers on the CPU backend: packed weights by the C++ kernels, plain ones by XLA.

The kernels add adapters to what a packed weight gives, but drop none of their inputs: where there
is dropout, adapters are added by XLA. Deliberately does not know gradients: cpu_gradients.py.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from flaxen.kernels.linear import cpu_gradients, reference
from flaxen.kernels.linear.cpu_repack import pack, transpose
from flaxen.kernels.linear.lora import LoraWeight, add_adapters
from flaxen.kernels.linear.packed import PackedLinear
from flaxen.kernels.linear.reference import AnyWeight, Operands, Options, Weight
from flaxen.kernels.rms_norm.cpu import rms_norm

__all__ = ["embed", "linears", "pack", "transpose"]


def linears(operands: Operands, options: Options) -> tuple[jax.Array, ...]:
    """Like `reference.linears`; either all weights are packed, or none."""
    x, weights, _, norm, residual = operands
    is_packed = isinstance(_base(weights[0]), PackedLinear)
    has_dropout = any(isinstance(weight, LoraWeight) and weight.dropout for weight in weights)
    if not is_packed or has_dropout:
        h = x if norm is None else rms_norm(x, norm, options.eps)
        run = _with_dropout if is_packed else reference.linears
        return run(operands._replace(x=h, norm=None), options)
    rows = math.prod(x.shape[:-1])
    flat = operands._replace(
        x=x.reshape(rows, x.shape[-1]),
        weights=tuple(_by_row(weight, rows) for weight in weights),
        residual=None if residual is None else residual.reshape(rows, residual.shape[-1]),
    )
    outs = cpu_gradients.linears(flat, options)
    return tuple(out.reshape(*x.shape[:-1], out.shape[-1]) for out in outs)


def embed(table: PackedLinear, ids: jax.Array, out_dtype: jnp.dtype) -> jax.Array:
    """Like `reference.embed`."""
    rows: jax.Array = cpu_gradients.embed(table, ids.reshape(-1), out_dtype)
    return rows.reshape(*ids.shape, table.num_inputs)


def _base(weight: AnyWeight) -> Weight:
    base: Weight = weight.base if isinstance(weight, LoraWeight) else weight
    return base


def _by_row(weight: AnyWeight, rows: int) -> PackedLinear | LoraWeight:
    if isinstance(weight, LoraWeight):
        return dataclasses.replace(weight, ids=weight.ids.reshape(rows), key=None)
    assert isinstance(weight, PackedLinear)
    return weight


def _with_dropout(operands: Operands, options: Options) -> tuple[jax.Array, ...]:
    """The base layers, then their adapters, then the other fused operations, in float32, rounded
    once.
    """
    h, weights, biases, _, residual = operands
    bases = Operands(h, tuple(_base(weight) for weight in weights), biases)
    outs = list(linears(bases, Options(jnp.dtype(jnp.float32))))
    for index, weight in enumerate(weights):
        if isinstance(weight, LoraWeight):
            outs[index] = add_adapters(h, outs[index], weight)
    if options.gated:
        outs = [jax.nn.silu(outs[0]) * outs[1]]
    if residual is not None:
        outs = [outs[0] + residual.astype(jnp.float32)]
    return tuple(out.astype(options.out_dtype) for out in outs)
