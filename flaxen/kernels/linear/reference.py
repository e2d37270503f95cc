"""Linear layers in plain jnp: the definition of what every implementation computes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxen.kernels.linear.packed import PackedLinear, unpack
from flaxen.kernels.rms_norm import rms_norm

Weight = jax.Array | PackedLinear


def linears(
    x: jax.Array,
    weights: tuple[Weight, ...],
    biases: tuple[jax.Array | None, ...],
    norm: jax.Array | None,
    residual: jax.Array | None,
    eps: float,
    gated: bool,
    out_dtype: jnp.dtype,
) -> tuple[jax.Array, ...]:
    """norm(x) @ weight + bias (+ residual) for each weight, or silu(gate) * up of two.

    Sums, gate and residual are float32, rounded once at the end.

    Args:
      x: [..., I].
      weights: each [I, O].
      biases: [O] or None, one for each weight.
      norm: [I], the weight of an RMS norm over x; None for none.
      residual: [..., O], added to the output of the only weight; None for none.
      eps: the norm's epsilon.
      gated: the two weights are gate and up, with one output.
      out_dtype: the dtype of the outputs.

    Returns:
      [..., O] for each weight, or one if gated.
    """
    h = x if norm is None else rms_norm(x, norm, eps)
    outs = []
    for weight, bias in zip(weights, biases, strict=True):
        values = unpack(weight) if isinstance(weight, PackedLinear) else weight
        out = jnp.einsum("...I,IO->...O", h, values, preferred_element_type=jnp.float32)
        if bias is not None:
            out = out + jnp.broadcast_to(bias.astype(jnp.float32), out.shape)
        outs.append(out)
    if gated:
        gate, up = outs
        outs = [jax.nn.silu(gate) * up]
    if residual is not None:
        outs = [outs[0] + residual.astype(jnp.float32)]
    return tuple(out.astype(out_dtype) for out in outs)


def embed(table: Weight, ids: jax.Array, out_dtype: jnp.dtype) -> jax.Array:
    """Looks up columns of an unembedding [D, V] by id, [..., D]; zeros for a negative id."""
    values = unpack(table) if isinstance(table, PackedLinear) else table
    rows = values.T[jnp.maximum(ids, 0)].astype(out_dtype)
    return jnp.where((ids >= 0)[..., None], rows, jnp.zeros((), out_dtype))
