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
from flaxen.kernels.linear.reference import AnyWeight, Operand, Weight
from flaxen.kernels.rms_norm.cpu import rms_norm

__all__ = ["embed", "linears", "pack", "transpose"]


def linears(
    x: jax.Array,
    weights: tuple[AnyWeight, ...],
    biases: tuple[Operand, ...],
    norm: Operand,
    residual: Operand,
    eps: float,
    gated: bool,
    out_dtype: jnp.dtype,
) -> tuple[jax.Array, ...]:
    """Like `reference.linears`; either all weights are packed, or none."""
    if not isinstance(_base(weights[0]), PackedLinear):
        h = x if norm is None else rms_norm(x, norm, eps)
        return reference.linears(h, weights, biases, None, residual, eps, gated, out_dtype)
    if any(isinstance(weight, LoraWeight) and weight.dropout for weight in weights):
        h = x if norm is None else rms_norm(x, norm, eps)
        return _with_dropout(h, weights, biases, residual, gated, out_dtype)
    rows = math.prod(x.shape[:-1])
    outs = cpu_gradients.linears(
        x.reshape(rows, x.shape[-1]),
        tuple(_by_row(weight, rows) for weight in weights),
        biases,
        norm,
        None if residual is None else residual.reshape(rows, residual.shape[-1]),
        eps,
        gated,
        out_dtype,
    )
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


def _with_dropout(
    h: jax.Array,
    weights: tuple[AnyWeight, ...],
    biases: tuple[Operand, ...],
    residual: Operand,
    gated: bool,
    out_dtype: jnp.dtype,
) -> tuple[jax.Array, ...]:
    """The base layers, then their adapters, then the other fused operations, in float32, rounded
    once.
    """
    bases = tuple(_base(weight) for weight in weights)
    wide = jnp.dtype(jnp.float32)
    outs = list(linears(h, bases, biases, None, None, 0.0, False, wide))
    for index, weight in enumerate(weights):
        if isinstance(weight, LoraWeight):
            outs[index] = add_adapters(h, outs[index], weight)
    if gated:
        outs = [jax.nn.silu(outs[0]) * outs[1]]
    if residual is not None:
        outs = [outs[0] + residual.astype(jnp.float32)]
    return tuple(out.astype(out_dtype) for out in outs)
