"""A mixture of experts in plain jnp: the definition of what every implementation computes.

Rows are sorted by expert, so that all experts are one grouped product, without dropping tokens.
Dimension key: T tokens, k experts of a token, S = T * k, E experts, I inputs, O outputs, D model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxen.expert_kernels.experts.spec import ExpertsSpec
from flaxen.kernels.linear.lora import LoraWeight
from flaxen.kernels.linear.packed import PackedLinear, pack
from flaxen.kernels.linear.quantized import QuantizedLinear
from flaxen.kernels.linear.weight import unpack

__all__ = ["experts", "grouped_linear", "pack", "plain", "sort"]

Operand = jax.Array | None
Stack = Any  # [E, I, O]: a plain array, a PackedLinear or a QuantizedLinear, or with adapters
# rows [S, I] sorted by expert, a stack, and the first row of each expert [E + 1] -> float32 [S, O]
Grouped = Callable[[jax.Array, Stack, jax.Array], jax.Array]


class Sorted(NamedTuple):
    """The chosen experts of all tokens, sorted by expert and then by token; those that do not count
    come last.
    """

    order: jax.Array  # [S], where each comes from in [T * k]
    places: jax.Array  # [S], the inverse
    experts: jax.Array  # [S], the expert of each; E for those that do not count
    starts: jax.Array  # [E + 1] int32, the first of each expert


def sort(x: jax.Array, ids: jax.Array, num_experts: int) -> Sorted:
    """Sorts the choices. A row of zeros is padding, and has no experts.

    Args:
      x: [T, D].
      ids: int32 [T, k]; outside of [0, E) is no expert.
      num_experts: E.
    """
    is_token = jnp.any(x != 0, axis=-1, keepdims=True)
    counts = is_token & (ids >= 0) & (ids < num_experts)
    experts = jnp.where(counts, ids, num_experts).reshape(-1)
    order = jnp.argsort(experts, stable=True)
    experts = experts[order]
    starts = jnp.searchsorted(experts, jnp.arange(num_experts + 1, dtype=experts.dtype))
    return Sorted(order, jnp.argsort(order), experts, starts.astype(jnp.int32))


def experts(
    x: jax.Array,
    ids: jax.Array,
    weights: jax.Array,
    layers: tuple[Stack, Stack, Stack],
    biases: tuple[Operand, Operand, Operand],
    residual: Operand,
    spec: ExpertsSpec,
    out_dtype: jnp.dtype,
    *,
    grouped: Grouped | None = None,
) -> jax.Array:
    """Each token's weighted sum of its experts, in the order in which it names them.

    Sums are float32, rounded once at the end; hidden values are rounded to x's dtype.

    Args:
      x: [T, D].
      ids: int32 [T, k].
      weights: float32 [T, k].
      layers: gate and up [E, D, F], and down [E, F, D].
      biases: of these, [E, F] or [E, D], or None.
      residual: [T, D] or None.
      spec: what the experts compute.
      out_dtype: the dtype of the result, [T, D].
      grouped: computes the grouped products; None is `grouped_linear`.
    """
    product = grouped or grouped_linear
    num_experts, k = layers[0].shape[0], ids.shape[1]
    chosen = sort(x, ids, num_experts)
    own = jnp.minimum(chosen.experts, num_experts - 1)
    rows = x[chosen.order // k]
    if spec.scales_inputs:
        scale = weights.reshape(-1)[chosen.order][:, None]
        rows = (rows.astype(jnp.float32) * scale).astype(x.dtype)

    def layer(rows: jax.Array, index: int) -> jax.Array:
        weight = layers[index]
        if isinstance(weight, LoraWeight):
            out = product(rows, weight.base, chosen.starts)
            out = add_adapters(rows, out, weight, chosen, k)
        else:
            out = product(rows, weight, chosen.starts)
        bias = biases[index]
        return out if bias is None else out + bias.astype(jnp.float32)[own]

    hidden = spec.gate(layer(rows, 0), layer(rows, 1)).astype(x.dtype)
    outs = jnp.where((chosen.experts < num_experts)[:, None], layer(hidden, 2), 0)
    outs = outs[chosen.places].reshape(*ids.shape, -1)
    out = jnp.zeros(outs.shape[::2], jnp.float32)
    for j in range(k):
        out = out + (outs[:, j] if spec.scales_inputs else outs[:, j] * weights[:, j, None])
    if residual is not None:
        out = out + residual.astype(jnp.float32)
    return out.astype(out_dtype)


def add_adapters(
    rows: jax.Array, out: jax.Array, weight: LoraWeight, chosen: Sorted, k: int
) -> jax.Array:
    """Adds the adapters' part to the outputs of a stack, as `kernels.linear.lora` says.

    Computes every adapter for every row and keeps the row's own, which suits few adapters.

    Args:
      rows: [S, I], sorted by expert.
      out: float32 [S, O], without adapters.
      weight: has the adapter of each token.
      chosen: the order of the rows.
      k: the experts of a token.
    """
    sizes = chosen.starts[1:] - chosen.starts[:-1]
    x = rows.astype(jnp.float32)
    if weight.dropout:
        assert weight.key is not None, "dropout needs a key"
        keep = jax.random.bernoulli(weight.key, 1 - weight.dropout, x.shape)
        x = jnp.where(keep, x / (1 - weight.dropout), 0)
    ids = weight.ids.reshape(-1)[chosen.order // k]
    for adapter in range(weight.a.shape[0]):
        scale = jnp.where(ids == adapter, weight.scales[adapter], 0)
        hidden = jax.lax.ragged_dot(x, weight.a[adapter], sizes) * scale[:, None]
        out = out + jax.lax.ragged_dot(hidden, weight.b[adapter], sizes)
    return out


def grouped_linear(rows: jax.Array, weight: Stack, starts: jax.Array) -> jax.Array:
    """rows [S, I], each times the weight of its expert, in float32: [S, O].

    Args:
      rows: sorted by expert; what comes after the last expert's gives zeros.
      weight: [E, I, O].
      starts: int32 [E + 1], the first row of each expert.
    """
    values = plain(weight, rows.dtype)
    sizes = starts[1:] - starts[:-1]
    out: jax.Array = jax.lax.ragged_dot(rows, values, sizes, preferred_element_type=jnp.float32)
    return out


def plain(weight: Stack, dtype: jnp.dtype) -> jax.Array:
    """The values of a stack [E, I, O], those of quantized ones in a dtype."""
    if isinstance(weight, QuantizedLinear):
        return unpack(weight).astype(dtype)
    if isinstance(weight, PackedLinear):
        values = unpack(weight)
        return values if weight.scales is None else values.astype(dtype)
    array: jax.Array = weight
    return array
