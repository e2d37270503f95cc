"""Linear layers and embeddings through the C++ kernels, with gradients through the same kernels.

A backward pass multiplies with the packed transpose of the weight, made each time: a copy is cheap
compared with the product. The compiler drops gradients that are not used (of frozen weights, for
example), so each part depends on what it needs only. Deliberately does not know the layers of a
model.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from flaxen.kernels import derivatives
from flaxen.kernels.linear import cpu_calls, reference
from flaxen.kernels.linear.cpu_calls import packed_base
from flaxen.kernels.linear.cpu_repack import pack_differentiated, transpose_differentiated
from flaxen.kernels.linear.lora import LoraWeight
from flaxen.kernels.linear.packed import PackedLinear, unpack
from flaxen.kernels.linear.reference import AnyWeight, Operands, Options
from flaxen.kernels.rms_norm import reference as norm_reference
from flaxen.kernels.rms_norm.cpu import differentiated as rms_norm

# What the backward pass needs: the operands, and gate and up of a gated layer.
_Saved = tuple[Operands, tuple[jax.Array, ...]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def linears(operands: Operands, options: Options) -> tuple[jax.Array, ...]:
    """Like `cpu_calls.linears`, with gradients."""
    return cpu_calls.linears(operands, options)


def _forward(operands: Operands, options: Options) -> tuple[tuple[jax.Array, ...], _Saved]:
    outs = _differentiated(operands, options)
    num_outs = 1 if options.gated else len(operands.weights)
    return outs[:num_outs], (operands, outs[num_outs:])


def _differentiated(operands: Operands, options: Options) -> tuple[jax.Array, ...]:
    """Like `cpu_calls.linears` in a backward pass, differentiable again; keeps gate and up."""
    outs: tuple[jax.Array, ...] = derivatives.call(
        functools.partial(cpu_calls.linears, keeps_gate=options.gated),
        functools.partial(reference.linears, keeps_gate=options.gated),
        (operands,),
        (options,),
    )
    return outs


def _backward(
    options: Options, saved: _Saved, cotangents: tuple[jax.Array, ...]
) -> tuple[Operands]:
    (x, weights, biases, norm, residual), gate_and_up = saved
    eps = options.eps
    h = x if norm is None else rms_norm(x, norm, eps)
    outs_bar = [each.astype(x.dtype) for each in cotangents]
    if options.gated:
        gate, up = gate_and_up
        outs_bar = [each.astype(x.dtype) for each in _gate_gradients(gate, up, cotangents[0])]
    h_bar = _input_gradient(outs_bar, weights)
    norm_bar = None
    x_bar = h_bar
    if norm is not None:
        _, pull_back = jax.vjp(lambda x, weight: norm_reference.rms_norm(x, weight, eps), x, norm)
        x_bar, norm_bar = pull_back(h_bar)
    weight_bars = tuple(
        _lora_gradient(h, each, out_bar)
        if isinstance(each, LoraWeight)
        else _weight_gradient(h, packed_base(each), out_bar)
        for each, out_bar in zip(weights, outs_bar, strict=True)
    )
    bias_bars = tuple(
        None if bias is None else jnp.sum(each.astype(jnp.float32), axis=0).astype(bias.dtype)
        for bias, each in zip(biases, outs_bar, strict=True)
    )
    residual_bar = None if residual is None else cotangents[0].astype(residual.dtype)
    return (Operands(x_bar, weight_bars, bias_bars, norm_bar, residual_bar),)


linears.defvjp(_forward, _backward)


def _gate_gradients(
    gate: jax.Array, up: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The gradients of silu(gate) * up for gate and up, in float32."""
    gate, up, out_bar = (each.astype(jnp.float32) for each in (gate, up, cotangent))
    share = jax.nn.sigmoid(gate)
    return out_bar * up * share * (1 + gate * (1 - share)), out_bar * gate * share


def _input_gradient(outs_bar: list[jax.Array], weights: tuple[AnyWeight, ...]) -> jax.Array:
    """The sum of out_bar @ weight^T over the weights, in float32."""
    total = None
    for index, (out_bar, weight) in enumerate(zip(outs_bar, weights, strict=True)):
        is_last = index == len(weights) - 1
        dtype = out_bar.dtype if is_last else jnp.dtype(jnp.float32)
        operands = Operands(out_bar, (_transposed(weight),), (None,), residual=total)
        (total,) = _differentiated(operands, Options(dtype))
    assert total is not None
    return total


def _transposed(weight: AnyWeight) -> PackedLinear | LoraWeight:
    base = transpose_differentiated(packed_base(weight))
    if not isinstance(weight, LoraWeight):
        return base
    a, b = weight.b.swapaxes(1, 2), weight.a.swapaxes(1, 2)
    return dataclasses.replace(weight, base=base, a=a, b=b)


def _weight_gradient(h: jax.Array, weight: PackedLinear, out_bar: jax.Array) -> PackedLinear:
    """h^T @ out_bar, packed like the weight."""
    operands = Operands(h.T, (pack_differentiated(out_bar),), (None,))
    (found,) = _differentiated(operands, Options(jnp.dtype(jnp.float32)))
    if weight.scales is None:
        data = pack_differentiated(found.astype(weight.data.dtype)).data
        return dataclasses.replace(weight, data=data)
    scales = (weight.scales, weight.mins)
    _, pull_back = jax.vjp(
        lambda scales: unpack(dataclasses.replace(weight, scales=scales[0], mins=scales[1])), scales
    )
    ((scales_bar, mins_bar),) = pull_back(found)
    return dataclasses.replace(weight, data=None, scales=scales_bar, mins=mins_bar)


def _lora_gradient(h: jax.Array, weight: LoraWeight, out_bar: jax.Array) -> LoraWeight:
    """The gradients for the base weight, a, b and scales."""
    a_bar, b_bar, scales_bar = derivatives.call(
        cpu_calls.lora_gradient, reference.lora_gradient, (h, out_bar, weight)
    )
    return dataclasses.replace(
        weight,
        base=_weight_gradient(h, packed_base(weight), out_bar),
        a=a_bar,
        b=b_bar,
        scales=scales_bar,
        ids=None,
        key=None,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def embed(table: PackedLinear, ids: jax.Array, out_dtype: jnp.dtype) -> jax.Array:
    """Like `cpu_calls.embed`, with gradients."""
    return cpu_calls.embed(table, ids, out_dtype)


def _embed_forward(
    table: PackedLinear, ids: jax.Array, out_dtype: jnp.dtype
) -> tuple[jax.Array, tuple[PackedLinear, jax.Array]]:
    rows: jax.Array = derivatives.call(cpu_calls.embed, reference.embed, (table, ids), (out_dtype,))
    return rows, (table, ids)


def _embed_backward(
    out_dtype: jnp.dtype, saved: tuple[PackedLinear, jax.Array], cotangent: jax.Array
) -> tuple[PackedLinear, None]:
    table, ids = saved
    if table.scales is not None:
        _, pull_back = jax.vjp(lambda table: reference.embed(table, ids, out_dtype), table)
        return pull_back(cotangent)[0], None
    D, V = table.shape
    places = jnp.where(ids >= 0, ids, V)  # an index beyond the end is dropped
    rows = jnp.zeros((V, D), jnp.float32).at[places].add(cotangent.astype(jnp.float32), mode="drop")
    data = transpose_differentiated(pack_differentiated(rows.astype(table.data.dtype))).data
    return dataclasses.replace(table, data=data), None


embed.defvjp(_embed_forward, _embed_backward)
