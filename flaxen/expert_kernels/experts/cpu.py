"""A mixture of experts through the C++ kernels, with gradients through grouped products in C++.

The backward pass differentiates the reference, whose grouped products are kernels too.
Dimension key: as in reference.py.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.expert_kernels.experts import reference
from flaxen.expert_kernels.experts.reference import Operand, Stack
from flaxen.expert_kernels.experts.spec import ACTIVATIONS, ExpertsSpec
from flaxen.kernels import cpu_library, derivatives
from flaxen.kernels.linear.cpu_repack import (
    packed_shape,
    transpose_differentiated,
    weight_fields,
    weight_leaves,
)
from flaxen.kernels.linear.lora import LoraWeight
from flaxen.kernels.linear.packed import PackedLinear, unpack

Layers = tuple[Stack, Stack, Stack]
Biases = tuple[Operand, Operand, Operand]
_WIDE = jnp.dtype(jnp.float32)


class _Operands(NamedTuple):
    """The arrays that `reference.experts` takes, in its order."""

    x: jax.Array
    ids: jax.Array
    weights: jax.Array
    layers: Layers
    biases: Biases
    residual: Operand


def experts(
    x: jax.Array,
    ids: jax.Array,
    weights: jax.Array,
    layers: Layers,
    biases: Biases,
    residual: Operand,
    spec: ExpertsSpec,
    out_dtype: jnp.dtype,
) -> jax.Array:
    """Like `reference.experts`; plain stacks, and all adapters, are multiplied by XLA."""
    operands = _Operands(x, ids, weights, layers, biases, residual)
    if all(isinstance(each, PackedLinear) for each in layers):
        return _packed(operands, spec, out_dtype)
    bases = [each.base if isinstance(each, LoraWeight) else each for each in layers]
    if all(isinstance(each, PackedLinear) for each in bases):
        return reference.experts(*operands, spec, out_dtype, grouped=grouped_linear)
    return _reference(operands, spec, out_dtype)


def _reference(operands: _Operands, spec: ExpertsSpec, out_dtype: jnp.dtype) -> jax.Array:
    return reference.experts(*operands, spec, out_dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _packed(operands: _Operands, spec: ExpertsSpec, out_dtype: jnp.dtype) -> jax.Array:
    return _call(operands, spec, out_dtype)


def _call(operands: _Operands, spec: ExpertsSpec, out_dtype: jnp.dtype) -> jax.Array:
    x, ids, weights, layers, biases, residual = operands
    arrays = [] if residual is None else [residual]
    fields: list[int] = []
    for layer, bias in zip(layers, biases, strict=True):
        arrays += [*weight_leaves(layer), *([] if bias is None else [bias])]
        fields += [*weight_fields(layer)[:-3], int(bias is not None), 0, 0]
    gate = spec.gate
    out = jax.ShapeDtypeStruct((x.shape[0], layers[2].shape[2]), out_dtype)
    found: jax.Array = cpu_library.kernel("experts", out)(
        x,
        ids,
        weights,
        *arrays,
        layers=np.array(fields, np.int64),
        num_experts=np.int64(layers[0].shape[0]),
        has_residual=np.bool_(residual is not None),
        scales_inputs=np.bool_(spec.scales_inputs),
        gate_kind=np.int64(ACTIVATIONS.index(gate.activation)),
        gate=np.array([gate.alpha, gate.limit or 0, gate.offset], np.float32),
    )
    return found


def _forward(
    operands: _Operands, spec: ExpertsSpec, out_dtype: jnp.dtype
) -> tuple[jax.Array, _Operands]:
    return derivatives.call(_call, _reference, (operands,), (spec, out_dtype)), operands


def _backward(
    spec: ExpertsSpec, out_dtype: jnp.dtype, saved: _Operands, cotangent: jax.Array
) -> tuple[_Operands]:
    def run(x: jax.Array, weights: jax.Array, layers: Layers, biases: Biases) -> jax.Array:
        return reference.experts(
            x, saved.ids, weights, layers, biases, None, spec, _WIDE, grouped=grouped_linear
        )

    _, pull_back = jax.vjp(run, saved.x, saved.weights, saved.layers, saved.biases)
    x_bar, weights_bar, layers_bar, biases_bar = pull_back(cotangent.astype(_WIDE))
    residual_bar = None if saved.residual is None else cotangent.astype(saved.residual.dtype)
    bars: Any = (x_bar, None, weights_bar, layers_bar, biases_bar, residual_bar)
    return (_Operands(*bars),)


_packed.defvjp(_forward, _backward)


@jax.custom_vjp
def grouped_linear(rows: jax.Array, weight: PackedLinear, starts: jax.Array) -> jax.Array:
    """Like `reference.grouped_linear`, of a packed stack."""
    return _call_grouped(rows, weight, starts)


def _call_grouped(rows: jax.Array, weight: PackedLinear, starts: jax.Array) -> jax.Array:
    out = jax.ShapeDtypeStruct((rows.shape[0], weight.shape[-1]), _WIDE)
    fields = np.array(weight_fields(weight), np.int64)
    found: jax.Array = cpu_library.kernel("grouped_linear", out)(
        rows, starts, *weight_leaves(weight), weights=fields
    )
    # The kernel writes no row after the last expert's.
    is_own = jnp.arange(rows.shape[0]) < starts[-1]
    return jnp.where(is_own[:, None], found, 0)


_SavedProduct = tuple[jax.Array, PackedLinear, jax.Array]


def _grouped_forward(
    rows: jax.Array, weight: PackedLinear, starts: jax.Array
) -> tuple[jax.Array, _SavedProduct]:
    saved = (rows, weight, starts)
    return derivatives.call(_call_grouped, reference.grouped_linear, saved), saved


def _grouped_backward(
    saved: _SavedProduct, cotangent: jax.Array
) -> tuple[jax.Array, PackedLinear, None]:
    rows, weight, starts = saved
    out_bar = cotangent.astype(rows.dtype)
    back = (out_bar, transpose_differentiated(weight), starts)
    rows_bar = derivatives.call(_call_grouped, reference.grouped_linear, back)
    return rows_bar.astype(rows.dtype), _weight_gradient(rows, out_bar, weight, starts), None


grouped_linear.defvjp(_grouped_forward, _grouped_backward)


def _weight_gradient(
    rows: jax.Array, out_bar: jax.Array, weight: PackedLinear, starts: jax.Array
) -> PackedLinear:
    """Each expert's rows^T @ out_bar, packed like the weight; or the gradient of its scales."""
    is_float = weight.scales is None
    plain = dataclasses.replace(
        weight,
        data=_gradient_data(
            rows, out_bar, starts, weight.shape, weight.data.dtype if is_float else _WIDE
        ),
        scales=None,
        mins=None,
        format=weight.format if is_float else "float32",
        group=0,
        zero=0,
    )
    if is_float:
        return plain
    scales = (weight.scales, weight.mins)
    _, pull_back = jax.vjp(
        lambda scales: unpack(dataclasses.replace(weight, scales=scales[0], mins=scales[1])), scales
    )
    ((scales_bar, mins_bar),) = pull_back(unpack(plain))
    return dataclasses.replace(weight, data=None, scales=scales_bar, mins=mins_bar)


def _gradient_data(
    rows: jax.Array,
    out_bar: jax.Array,
    starts: jax.Array,
    shape: tuple[int, ...],
    dtype: jnp.dtype,
) -> jax.Array:
    out = packed_shape(shape, jnp.dtype(dtype))

    def reference_data(rows: jax.Array, out_bar: jax.Array, starts: jax.Array) -> jax.Array:
        blank = jnp.zeros(shape, dtype)
        _, pull_back = jax.vjp(lambda w: reference.grouped_linear(rows, w, starts), blank)
        (found,) = pull_back(out_bar.astype(_WIDE))
        data: jax.Array = reference.pack(found).data
        return data

    data: jax.Array = derivatives.call(
        cpu_library.kernel("experts_gradient", out), reference_data, (rows, out_bar, starts)
    )
    return data
