"""Calls of the C++ kernels for linear layers and embeddings; gradients are in cpu_gradients.py.

Deliberately does not know the layers of a model.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.kernels import cpu_library
from flaxen.kernels.linear.cpu_repack import weight_fields, weight_leaves
from flaxen.kernels.linear.lora import LoraWeight
from flaxen.kernels.linear.packed import PackedLinear
from flaxen.kernels.linear.reference import AnyWeight, Operand, Operands, Options


def linears(
    operands: Operands, options: Options, *, keeps_gate: bool = False
) -> tuple[jax.Array, ...]:
    """Like `reference.linears`, over rows x [T, I]; adapter ids are [T].

    The residual may be float32 for any x. Has no gradient; `keeps_gate` also returns gate and up
    before they are multiplied, which the gradient needs.
    """
    x, weights, biases, norm, residual = operands
    out_dtype, eps, gated = options
    assert gated or not keeps_gate
    outs = (weights[:1] if gated else weights) + (weights if keeps_gate else ())
    arrays: list[jax.Array] = [x]
    arrays += [each for each in (norm, residual) if each is not None]
    fields: list[int] = []
    for weight, bias in zip(weights, biases, strict=True):
        arrays += _leaves(weight, bias)
        fields += _fields(weight, bias)
    call = cpu_library.kernel(
        "linear",
        [jax.ShapeDtypeStruct((x.shape[0], weight.shape[1]), out_dtype) for weight in outs],
    )
    results: Sequence[jax.Array] = call(
        *arrays,
        weights=np.array(fields, np.int64),
        has_norm=np.bool_(norm is not None),
        has_residual=np.bool_(residual is not None),
        gated=np.bool_(gated),
        eps=np.float32(eps),
    )
    return tuple(results)


def embed(table: PackedLinear, ids: jax.Array, out_dtype: jnp.dtype) -> jax.Array:
    """Looks up rows of a packed table: ids [T] to [T, I]; zeros for a negative id.

    Has no gradient.
    """
    out = jax.ShapeDtypeStruct((ids.shape[0], table.num_inputs), out_dtype)
    call = cpu_library.kernel("embed", out)
    fields = np.array(weight_fields(table), np.int64)
    return jnp.asarray(call(ids, *weight_leaves(table), weights=fields))


def lora_gradient(
    h: jax.Array, out_bar: jax.Array, weight: LoraWeight
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients of a weight's adapters for a, b and scales, in their shapes.

    Sums run over the rows in order, in float32. Zero rows at the end cost nothing.

    Args:
      h: [T, I], the layer's (normed) input.
      out_bar: [T, O] in h's dtype, the gradient of the layer's output.
      weight: with ids [T].
    """
    assert h.dtype == out_bar.dtype
    outs = [
        jax.ShapeDtypeStruct(each.shape, jnp.float32)
        for each in (weight.a, weight.b, weight.scales)
    ]
    call = cpu_library.kernel("lora_gradient", outs)
    results = call(h, out_bar, weight.a, weight.b, weight.scales, weight.ids)
    a_bar, b_bar, scales_bar = results
    return a_bar, b_bar, scales_bar


def _leaves(weight: AnyWeight, bias: Operand) -> list[jax.Array]:
    biases = [] if bias is None else [bias]
    adapters: list[jax.Array] = []
    if isinstance(weight, LoraWeight):
        adapters = [weight.a, weight.b, weight.scales, weight.ids]
    return weight_leaves(packed_base(weight)) + biases + adapters


def _fields(weight: AnyWeight, bias: Operand) -> list[int]:
    adapters = [0, 0]
    if isinstance(weight, LoraWeight):
        adapters = [weight.a.shape[0], weight.a.shape[2]]
    return [*weight_fields(packed_base(weight))[:-3], int(bias is not None), *adapters]


def packed_base(weight: AnyWeight) -> PackedLinear:
    """A packed weight, without the adapters that it may have."""
    base = weight.base if isinstance(weight, LoraWeight) else weight
    assert isinstance(base, PackedLinear)
    return base
