"""Linear layers, fused with the operations around them: norm, bias, gate, residual.

A weight is a plain array [I, O], which XLA multiplies on every backend; a `PackedLinear`, which the
C++ kernels multiply on the CPU backend; or a `QuantizedLinear`, for the other backends. A
`LoraWeight` adds adapters to any of them. Deliberately does not know the layers of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32

from flaxen.kernels.backend import Backend, find_implementation
from flaxen.kernels.linear import cpu, gpu, gpu_invariant, ordered, reference, tpu
from flaxen.kernels.linear.lora import LoraWeight, check_adapters
from flaxen.kernels.linear.packed import PackedLinear
from flaxen.kernels.linear.quantized import QuantizedLinear
from flaxen.kernels.linear.reference import AnyWeight, Operands, Options, Weight
from flaxen.kernels.linear.weight import LinearWeight, unpack
from flaxen.kernels.rms_norm import rms_norm

__all__ = [
    "LinearWeight",
    "LoraWeight",
    "PackedLinear",
    "QuantizedLinear",
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


class LinearImplementation(NamedTuple):
    """The functions of a backend for linear layers; each is like that of `reference`."""

    linears: Callable[..., tuple[jax.Array, ...]]
    embed: Callable[[Any, jax.Array, jnp.dtype], jax.Array]
    pack: Callable[[jax.Array], PackedLinear]
    transpose: Callable[[Any], Weight]
    unembed: Callable[[jax.Array, jax.Array], jax.Array] = reference.unembed  # plain tables


_TPU = LinearImplementation(tpu.linears, tpu.embed, reference.pack, reference.transpose)
IMPLEMENTATIONS: Mapping[Backend, LinearImplementation] = {
    Backend.REFERENCE: LinearImplementation(
        reference.linears, reference.embed, reference.pack, reference.transpose
    ),
    Backend.CPU: LinearImplementation(cpu.linears, cpu.embed, cpu.pack, cpu.transpose),
    # Plain weights are XLA's on both: these have kernels for quantized ones.
    Backend.GPU: LinearImplementation(
        gpu.linears, reference.embed, reference.pack, reference.transpose
    ),
    Backend.GPU_INVARIANT: LinearImplementation(
        gpu_invariant.linears,
        reference.embed,
        reference.pack,
        reference.transpose,
        gpu_invariant.unembed,
    ),
    Backend.TPU: _TPU,
    Backend.TPU_TOKAMAX: _TPU,
}

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
    backend: Backend,
) -> Float[Array, "*B O"]:
    """norm(x) @ weight + bias + residual, summed in float32 and rounded once.

    Args:
      x: [..., I] activations.
      weight: [I, O].
      bias: [O] or None.
      norm: weight [I] and epsilon of an RMS norm over x, or None.
      residual: [..., O] or None.
      out_dtype: the dtype of the result; None is x's.
      backend: what computes.

    Raises:
      ValueError: the sizes do not match.
    """
    operands = Operands(x, (weight,), (bias,), residual=residual)
    (out,) = _linears(operands, norm, backend, out_dtype=out_dtype)
    return out


def linears(
    x: Float[Array, "*B I"],
    weights: tuple[AnyWeight, ...],
    biases: tuple[Bias, ...],
    *,
    norm: Norm | None = None,
    backend: Backend,
) -> tuple[Float[Array, "*B _"], ...]:
    """Several layers with the same input: norm(x) @ weight + bias for each.

    Args:
      x: [..., I] activations.
      weights: each [I, O]; O may differ.
      biases: [O] or None, one for each weight.
      norm: weight [I] and epsilon of an RMS norm over x, or None.
      backend: what computes.

    Raises:
      ValueError: the sizes do not match.
    """
    return _linears(Operands(x, weights, biases), norm, backend)


def gated_linear(
    x: Float[Array, "*B I"],
    gate: AnyWeight,
    up: AnyWeight,
    biases: tuple[Bias, Bias] = (None, None),
    *,
    norm: Norm | None = None,
    backend: Backend,
) -> Float[Array, "*B O"]:
    """silu(h @ gate + bias) * (h @ up + bias) with h = norm(x), https://arxiv.org/abs/2002.05202.

    Args:
      x: [..., I] activations.
      gate: [I, O].
      up: [I, O].
      biases: the biases of gate and up.
      norm: weight [I] and epsilon of an RMS norm over x, or None.
      backend: what computes.

    Raises:
      ValueError: the sizes do not match.
    """
    if gate.shape != up.shape:
        raise ValueError(f"gate and up must have one shape, got {gate.shape} and {up.shape}")
    (out,) = _linears(Operands(x, (gate, up), biases), norm, backend, gated=True)
    return out


def embed(
    table: Float[Array, "V D"] | LinearWeight,
    ids: Int32[Array, "*B"],
    dtype: DTypeLike,
    *,
    backend: Backend,
) -> Float[Array, "*B D"]:
    """Looks up rows of a table by token id, [..., D] in dtype; a negative id (padding) gives zeros.

    Args:
      table: [V, D], or the packed or quantized unembedding [D, V] to which it is tied.
      ids: [...] below V.
      dtype: the dtype of the result.
      backend: what computes.
    """
    if isinstance(table, LinearWeight) and table.order is None:
        return _find(backend).embed(table, ids, jnp.dtype(dtype))
    if isinstance(table, LinearWeight):
        table = unpack(table).T
    rows = table[jnp.maximum(ids, 0)].astype(dtype)
    return jnp.where((ids >= 0)[..., None], rows, 0)


def unembed(
    x: Float[Array, "*B D"],
    table: Float[Array, "V D"] | LinearWeight,
    norm: Norm | None,
    *,
    backend: Backend,
) -> Float[Array, "*B V"]:
    """float32 logits: the products of norm(x) with each row of the table.

    Args:
      x: [..., D].
      table: [V, D], or packed or quantized as [D, V].
      norm: the weight [D] and epsilon of an RMS norm over x, or None.
      backend: what computes.
    """
    if isinstance(table, LinearWeight):
        return linear(x, table, norm=norm, out_dtype=jnp.float32, backend=backend)
    h = x if norm is None else rms_norm(x, *norm, backend=backend)
    return _find(backend).unembed(h, table)


def pack(weight: Float[Array, "*E I O"], *, backend: Backend) -> PackedLinear:
    """Packs a float32 or bfloat16 weight, or a stack of experts', without loss. Differentiable.

    Args:
      weight: [I, O] or [E, I, O].
      backend: what computes: the form is the same.

    Raises:
      ValueError: another dtype.
    """
    return _find(backend).pack(weight)


def transpose(weight: LinearWeight, *, backend: Backend) -> Weight:
    """The weight [O, I] of a weight [I, O]: without loss for packed floats, whose gradient goes
    through; float32 for quantized ones, whose does not. Packed weights stay packed.

    Args:
      weight: of any format.
      backend: what computes.
    """
    return _find(backend).transpose(weight)


def _linears(
    operands: Operands,
    norm: Norm | None,
    backend: Backend,
    *,
    gated: bool = False,
    out_dtype: DTypeLike | None = None,
) -> tuple[jax.Array, ...]:
    x, weights, *_ = operands
    for weight in weights:
        if weight.shape[0] != x.shape[-1]:
            raise ValueError(
                f"a weight of {weight.shape[0]} inputs was given {x.shape[-1]}: their sizes must "
                "match"
            )
        if isinstance(weight, LoraWeight):
            check_adapters(weight, x.shape[:-1])
    bases = [each.base if isinstance(each, LoraWeight) else each for each in weights]
    if sum(isinstance(each, PackedLinear) for each in bases) not in (0, len(bases)):
        raise ValueError("either all weights of a layer must be packed, or none")
    scale, eps = (None, 0.0) if norm is None else norm
    dtype = jnp.dtype(x.dtype if out_dtype is None else out_dtype)
    run = _find(backend).linears
    if any(ordered.order_of(each) is not None for each in weights):
        normalize = partial(rms_norm, backend=backend)
        run = partial(ordered.linears, run, normalize)
    return run(operands._replace(norm=scale), Options(dtype, eps, gated))


def _find(backend: Backend) -> LinearImplementation:
    return find_implementation("linear", IMPLEMENTATIONS, backend)
