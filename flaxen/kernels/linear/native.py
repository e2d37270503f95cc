"""Linear layers through the C++ kernels: calls, and their gradients.

Deliberately does not know which layer of a model it is called for.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.kernels import native
from flaxen.kernels.linear import reference
from flaxen.kernels.linear.packed import FORMATS, INPUT_MULTIPLE, PackedLinear

Operand = jax.Array | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def linears(
    x: jax.Array,
    weights: tuple[PackedLinear, ...],
    biases: tuple[Operand, ...],
    norm: Operand,
    residual: Operand,
    eps: float,
    gated: bool,
    out_dtype: jnp.dtype,
) -> tuple[jax.Array, ...]:
    """As `reference.linears`, over rows x [T, I]."""
    library_call = _call(x, weights, biases, norm, residual, eps, gated, out_dtype)
    return tuple(library_call)


def _forward(
    x: jax.Array,
    weights: tuple[PackedLinear, ...],
    biases: tuple[Operand, ...],
    norm: Operand,
    residual: Operand,
    eps: float,
    gated: bool,
    out_dtype: jnp.dtype,
) -> tuple[tuple[jax.Array, ...], tuple[object, ...]]:
    outs = linears(x, weights, biases, norm, residual, eps, gated, out_dtype)
    return outs, (x, weights, biases, norm, residual)


def _backward(
    eps: float,
    gated: bool,
    out_dtype: jnp.dtype,
    saved: tuple[object, ...],
    cotangents: tuple[jax.Array, ...],
) -> tuple[object, ...]:
    """Differentiates the reference, which computes the forward once more."""

    def again(
        x: jax.Array,
        weights: tuple[PackedLinear, ...],
        biases: tuple[Operand, ...],
        norm: Operand,
        residual: Operand,
    ) -> tuple[jax.Array, ...]:
        return reference.linears(x, weights, biases, norm, residual, eps, gated, out_dtype)

    _, pullback = jax.vjp(again, *saved)
    return tuple(pullback(cotangents))


linears.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def embed(table: PackedLinear, ids: jax.Array, out_dtype: jnp.dtype) -> jax.Array:
    """Rows of a packed table by id: ids [T] to [T, I]; zeros where an id is negative."""
    native.library()
    out = jax.ShapeDtypeStruct((ids.shape[0], table.num_inputs), out_dtype)
    call = jax.ffi.ffi_call("flaxen_embed", out, vmap_method="sequential")
    fields = np.array(_fields(table, None), np.int64)
    return jnp.asarray(call(ids, *_leaves(table, None), weights=fields))


def _embed_forward(
    table: PackedLinear, ids: jax.Array, out_dtype: jnp.dtype
) -> tuple[jax.Array, tuple[PackedLinear, jax.Array]]:
    return embed(table, ids, out_dtype), (table, ids)


def _embed_backward(
    out_dtype: jnp.dtype, saved: tuple[PackedLinear, jax.Array], cotangent: jax.Array
) -> tuple[object, ...]:
    def again(table: PackedLinear, ids: jax.Array) -> jax.Array:
        return reference.embed(table, ids, out_dtype)

    _, pullback = jax.vjp(again, *saved)
    return tuple(pullback(cotangent))


embed.defvjp(_embed_forward, _embed_backward)


def _call(
    x: jax.Array,
    weights: Sequence[PackedLinear],
    biases: Sequence[Operand],
    norm: Operand,
    residual: Operand,
    eps: float,
    gated: bool,
    out_dtype: jnp.dtype,
) -> Sequence[jax.Array]:
    native.library()
    outs = weights[:1] if gated else weights
    operands: list[jax.Array] = [x]
    operands += [each for each in (norm, residual) if each is not None]
    fields: list[int] = []
    for weight, bias in zip(weights, biases, strict=True):
        operands += _leaves(weight, bias)
        fields += _fields(weight, bias)
    call = jax.ffi.ffi_call(
        "flaxen_linear",
        [jax.ShapeDtypeStruct((x.shape[0], weight.num_outputs), out_dtype) for weight in outs],
        vmap_method="sequential",
    )
    results: Sequence[jax.Array] = call(
        *operands,
        weights=np.array(fields, np.int64),
        has_norm=np.bool_(norm is not None),
        has_residual=np.bool_(residual is not None),
        gated=np.bool_(gated),
        eps=np.float32(eps),
    )
    return results


def _leaves(weight: PackedLinear, bias: Operand) -> list[jax.Array]:
    leaves = (weight.data, weight.scales, weight.mins, bias)
    return [leaf for leaf in leaves if leaf is not None]


def _fields(weight: PackedLinear, bias: Operand) -> list[int]:
    """What ffi.cpp reads of a weight."""
    padded = -(-weight.num_inputs // INPUT_MULTIPLE) * INPUT_MULTIPLE
    return [
        FORMATS.index(weight.format),
        weight.num_outputs,
        weight.group or padded,
        weight.zero,
        int(weight.mins is not None),
        int(bias is not None),
    ]
