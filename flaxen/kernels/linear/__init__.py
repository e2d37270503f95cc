"""Linear layers, fused with the operations around them: norm, bias, gate, residual.

A weight is a plain array [I, O], for XLA, or a `PackedLinear`, for the C++ kernels; a `LoraWeight`
adds adapters to either. Deliberately does not know the layers of a model.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32

from flaxen.kernels.linear import gradients, reference
from flaxen.kernels.linear.lora import LoraWeight, add_adapters, check_adapters
from flaxen.kernels.linear.packed import PackedLinear, unpack
from flaxen.kernels.linear.reference import Weight
from flaxen.kernels.linear.repack import pack, transpose
from flaxen.kernels.rms_norm import rms_norm

__all__ = [
    "LoraWeight",
    "PackedLinear",
    "Weight",
    "embed",
    "gated_linear",
    "linear",
    "linears",
    "pack",
    "transpose",
    "unembed",
    "unpack",
]

AnyWeight = Weight | LoraWeight
Bias = jax.Array | None  # [O]
Norm = tuple[jax.Array, float]  # weight [I], and the epsilon added to the mean square


def linear(
    x: Float[Array, "*B I"],
    weight: AnyWeight,
    bias: Bias = None,
    *,
    norm: Norm | None = None,
    residual: Float[Array, "*B O"] | None = None,
    out_dtype: DTypeLike | None = None,
) -> Float[Array, "*B O"]:
    """norm(x) @ weight + bias + residual, summed in float32 and rounded once.

    Args:
      x: [..., I] activations.
      weight: [I, O].
      bias: [O] or None.
      norm: weight [I] and epsilon of an RMS norm over x, or None.
      residual: [..., O] or None.
      out_dtype: the dtype of the result; None is x's.

    Raises:
      ValueError: the sizes do not match.
    """
    (out,) = _linears(x, (weight,), (bias,), norm, residual, False, out_dtype)
    return out


def linears(
    x: Float[Array, "*B I"],
    weights: tuple[AnyWeight, ...],
    biases: tuple[Bias, ...],
    *,
    norm: Norm | None = None,
) -> tuple[Float[Array, "*B _"], ...]:
    """Several layers with the same input: norm(x) @ weight + bias for each.

    Args:
      x: [..., I] activations.
      weights: each [I, O]; O may differ.
      biases: [O] or None, one for each weight.
      norm: weight [I] and epsilon of an RMS norm over x, or None.

    Raises:
      ValueError: the sizes do not match.
    """
    return _linears(x, weights, biases, norm, None, False, None)


def gated_linear(
    x: Float[Array, "*B I"],
    gate: AnyWeight,
    up: AnyWeight,
    biases: tuple[Bias, Bias] = (None, None),
    *,
    norm: Norm | None = None,
) -> Float[Array, "*B O"]:
    """silu(h @ gate + bias) * (h @ up + bias) with h = norm(x), https://arxiv.org/abs/2002.05202.

    Args:
      x: [..., I] activations.
      gate: [I, O].
      up: [I, O].
      biases: the biases of gate and up.
      norm: weight [I] and epsilon of an RMS norm over x, or None.

    Raises:
      ValueError: the sizes do not match.
    """
    if gate.shape != up.shape:
        raise ValueError(f"gate and up must have one shape, got {gate.shape} and {up.shape}")
    (out,) = _linears(x, (gate, up), biases, norm, None, True, None)
    return out


def embed(
    table: Float[Array, "V D"] | PackedLinear, ids: Int32[Array, "*B"], dtype: DTypeLike
) -> Float[Array, "*B D"]:
    """Looks up rows of a table by token id, [..., D] in dtype; a negative id (padding) gives zeros.

    Args:
      table: [V, D], or the packed unembedding [D, V] to which it is tied.
      ids: [...] below V.
      dtype: the dtype of the result.
    """
    if isinstance(table, PackedLinear):
        return gradients.embed(table, ids.reshape(-1), jnp.dtype(dtype)).reshape(
            *ids.shape, table.num_inputs
        )
    rows = table[jnp.maximum(ids, 0)].astype(dtype)
    return jnp.where((ids >= 0)[..., None], rows, 0)


def unembed(
    x: Float[Array, "*B D"], table: Float[Array, "V D"] | PackedLinear, norm: Norm
) -> Float[Array, "*B V"]:
    """float32 logits: the products of norm(x) with each row of the table.

    Args:
      x: [..., D].
      table: [V, D], or packed as [D, V].
      norm: the weight [D] and epsilon of an RMS norm over x.
    """
    if isinstance(table, PackedLinear):
        return linear(x, table, norm=norm, out_dtype=jnp.float32)
    return jnp.einsum(
        "...D,VD->...V", rms_norm(x, *norm), table, preferred_element_type=jnp.float32
    )


def _linears(
    x: jax.Array,
    weights: tuple[AnyWeight, ...],
    biases: tuple[Bias, ...],
    norm: Norm | None,
    residual: jax.Array | None,
    gated: bool,
    out_dtype: DTypeLike | None,
) -> tuple[jax.Array, ...]:
    for weight in weights:
        if weight.shape[0] != x.shape[-1]:
            raise ValueError(
                f"a weight of {weight.shape[0]} inputs was given {x.shape[-1]}: their sizes must "
                "match"
            )
        if isinstance(weight, LoraWeight):
            check_adapters(weight, x.shape[:-1])
    adapted = [weight for weight in weights if isinstance(weight, LoraWeight)]
    num_packed = sum(isinstance(_base(weight), PackedLinear) for weight in weights)
    if num_packed not in (0, len(weights)):
        raise ValueError("either all weights of a layer must be packed, or none")
    if adapted and (not num_packed or any(weight.dropout for weight in adapted)):
        return _with_adapters(x, weights, biases, norm, residual, gated, out_dtype)
    out_dtype = jnp.dtype(x.dtype if out_dtype is None else out_dtype)
    scale, eps = (None, 0.0) if norm is None else norm
    if not num_packed:
        plain = tuple(_base(weight) for weight in weights)
        return reference.linears(x, plain, biases, scale, residual, eps, gated, out_dtype)
    rows = math.prod(x.shape[:-1])
    outs = gradients.linears(
        x.reshape(rows, x.shape[-1]),
        tuple(_by_row(weight, rows) for weight in weights),
        biases,
        scale,
        None if residual is None else residual.reshape(rows, residual.shape[-1]),
        eps,
        gated,
        out_dtype,
    )
    return tuple(out.reshape(*x.shape[:-1], out.shape[-1]) for out in outs)


def _base(weight: AnyWeight) -> Weight:
    base: Weight = weight.base if isinstance(weight, LoraWeight) else weight
    return base


def _by_row(weight: AnyWeight, rows: int) -> PackedLinear | LoraWeight:
    if isinstance(weight, LoraWeight):
        return dataclasses.replace(weight, ids=weight.ids.reshape(rows), key=None)
    assert isinstance(weight, PackedLinear)
    return weight


def _with_adapters(
    x: jax.Array,
    weights: tuple[AnyWeight, ...],
    biases: tuple[Bias, ...],
    norm: Norm | None,
    residual: jax.Array | None,
    gated: bool,
    out_dtype: DTypeLike | None,
) -> tuple[jax.Array, ...]:
    """The base layers, then their adapters, then the other fused operations, in float32, rounded
    once.
    """
    h = x if norm is None else rms_norm(x, *norm)
    bases = tuple(_base(each) for each in weights)
    outs = list(_linears(h, bases, biases, None, None, False, jnp.float32))
    for index, weight in enumerate(weights):
        if isinstance(weight, LoraWeight):
            outs[index] = add_adapters(h, outs[index], weight)
    if gated:
        outs = [jax.nn.silu(outs[0]) * outs[1]]
    if residual is not None:
        outs = [outs[0] + residual.astype(jnp.float32)]
    return tuple(out.astype(x.dtype if out_dtype is None else out_dtype) for out in outs)
