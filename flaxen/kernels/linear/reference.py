"""Linear layers in plain jnp: the definition of what every implementation computes.

Packed weights are unpacked first; quantized ones are multiplied as `quantized.multiply` does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxen.kernels.linear import quantized
from flaxen.kernels.linear.lora import LoraWeight, add_adapters
from flaxen.kernels.linear.packed import PackedLinear, pack
from flaxen.kernels.linear.quantized import Multiply, QuantizedLinear
from flaxen.kernels.linear.weight import LinearWeight, unpack
from flaxen.kernels.rms_norm import reference as norm_reference

Weight = jax.Array | LinearWeight
AnyWeight = Weight | LoraWeight
Operand = jax.Array | None
Dot = Callable[[jax.Array, jax.Array], jax.Array]

__all__ = ["dot", "embed", "linears", "lora_gradient", "pack", "transpose", "unembed"]


class Operands(NamedTuple):
    """The arrays of linear layers with one input."""

    x: jax.Array  # [..., I]
    weights: tuple[AnyWeight, ...]  # each [I, O]
    biases: tuple[Operand, ...]  # [O] or None, one for each weight
    norm: Operand = None  # [I], the weight of an RMS norm over x; None for none
    residual: Operand = None  # [..., O], added to the output of the only weight; None for none


class Options(NamedTuple):
    """Options of linear layers with one input."""

    out_dtype: jnp.dtype  # of the outputs
    eps: float = 0.0  # the norm's epsilon
    gated: bool = False  # the two weights are gate and up, with one output


def linears(
    operands: Operands,
    options: Options,
    *,
    keeps_gate: bool = False,
    multiply: Multiply = quantized.multiply,
    dot: Dot | None = None,
    normalize: Callable[..., jax.Array] = norm_reference.rms_norm,
) -> tuple[jax.Array, ...]:
    """norm(x) @ weight + bias (+ residual) for each weight, or silu(gate) * up of two.

    Sums, adapters, gate and residual are float32, rounded once at the end.

    Args:
      operands: the arrays.
      options: the same for all outputs.
      keeps_gate: a gated layer also returns gate and up, before they are multiplied.
      multiply: computes the product with a quantized weight, in float32.
      dot: computes the other products; None is the plain one.
      normalize: computes the norm.

    Returns:
      [..., O] for each weight, or one if gated.
    """
    x, weights, biases, norm, residual = operands
    h = x if norm is None else normalize(x, norm, options.eps)
    outs = [
        _product(h, weight, bias, multiply, dot)
        for weight, bias in zip(weights, biases, strict=True)
    ]
    if options.gated:
        gate, up = outs
        outs = [jax.nn.silu(gate) * up, *(outs if keeps_gate else ())]
    if residual is not None:
        outs[0] = outs[0] + residual.astype(jnp.float32)
    return tuple(out.astype(options.out_dtype) for out in outs)


def embed(table: LinearWeight, ids: jax.Array, out_dtype: jnp.dtype) -> jax.Array:
    """Looks up columns of an unembedding [D, V] by id, [..., D]; zeros for a negative id."""
    if isinstance(table, QuantizedLinear):
        return quantized.embed(table, ids, out_dtype)
    rows = unpack(table).T[jnp.maximum(ids, 0)].astype(out_dtype)
    return jnp.where((ids >= 0)[..., None], rows, jnp.zeros((), out_dtype))


def transpose(weight: LinearWeight) -> Weight:
    """The weight [O, I] of a weight [I, O]: packed without loss for packed floats, whose gradient
    goes through; float32 for quantized ones, whose does not."""
    if isinstance(weight, QuantizedLinear):
        return jax.lax.stop_gradient(quantized.unpack(weight)).T
    if weight.scales is not None:
        weight = jax.lax.stop_gradient(weight)
    return pack(unpack(weight).T)


def lora_gradient(
    h: jax.Array, out_bar: jax.Array, weight: LoraWeight
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients of a weight's adapters to their a, b and scales, as these are.

    Args:
      h: [T, I], what the layer multiplied.
      out_bar: [T, O], the gradient to what came out.
      weight: with ids [T].
    """
    base = jnp.zeros(out_bar.shape, jnp.float32)

    def added(a: jax.Array, b: jax.Array, scales: jax.Array) -> jax.Array:
        return add_adapters(h, base, dataclasses.replace(weight, a=a, b=b, scales=scales))

    _, pull_back = jax.vjp(added, weight.a, weight.b, weight.scales)
    found: tuple[jax.Array, jax.Array, jax.Array] = pull_back(out_bar.astype(jnp.float32))
    return found


def dot(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x [..., I] @ weight [I, O], in float32."""
    out: jax.Array = jnp.einsum("...I,IO->...O", x, weight, preferred_element_type=jnp.float32)
    return out


def unembed(x: jax.Array, table: jax.Array) -> jax.Array:
    """The products of x [..., D] with the rows of a plain table [V, D], in float32."""
    out: jax.Array = jnp.einsum("...D,VD->...V", x, table, preferred_element_type=jnp.float32)
    return out


def _product(
    h: jax.Array, weight: AnyWeight, bias: Operand, multiply: Multiply, own_dot: Dot | None
) -> jax.Array:
    base = weight.base if isinstance(weight, LoraWeight) else weight
    if isinstance(base, QuantizedLinear):
        out = multiply(h, base)
    else:
        values = unpack(base) if isinstance(base, PackedLinear) else base
        out = (own_dot or dot)(h, values)
    if bias is not None:
        out = out + jnp.broadcast_to(bias.astype(jnp.float32), out.shape)
    return add_adapters(h, out, weight, own_dot) if isinstance(weight, LoraWeight) else out
