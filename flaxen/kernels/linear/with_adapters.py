"""Linear layers in plain jnp with every feature of the C++ kernel, including adapters and gates.

JAX differentiates this in place of the kernel's gradients, so it contains no kernel calls.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from flaxen.kernels.linear.lora import LoraWeight, add_adapters
from flaxen.kernels.linear.packed import PackedLinear, unpack
from flaxen.kernels.rms_norm import reference as norm_reference

_Operand = jax.Array | None


def linears(
    x: jax.Array,
    weights: tuple[PackedLinear | LoraWeight, ...],
    biases: tuple[_Operand, ...],
    norm: _Operand,
    residual: _Operand,
    eps: float,
    gated: bool,
    out_dtype: jnp.dtype,
) -> tuple[jax.Array, ...]:
    """Like `reference.linears`. A gated layer also returns gate and up before they are multiplied.

    Args:
      x: [T, I].
      weights: each [I, O], packed; adapter ids are [T].
      biases: [O] or None, one for each weight.
      norm: [I] or None.
      residual: [T, O] or None.
      eps: the norm's epsilon.
      gated: the weights are gate and up.
      out_dtype: the dtype of all outputs.
    """
    h = x if norm is None else norm_reference.rms_norm(x, norm, eps)
    outs = [_product(h, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
    if gated:
        gate, up = outs
        outs = [jax.nn.silu(gate) * up, gate, up]
    if residual is not None:
        outs[0] = outs[0] + residual.astype(jnp.float32)
    return tuple(out.astype(out_dtype) for out in outs)


def lora_gradient(
    h: jax.Array, out_bar: jax.Array, weight: LoraWeight
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Like `cpu.lora_gradient`."""
    base = jnp.zeros(out_bar.shape, jnp.float32)

    def added(a: jax.Array, b: jax.Array, scales: jax.Array) -> jax.Array:
        return add_adapters(h, base, dataclasses.replace(weight, a=a, b=b, scales=scales))

    _, pull_back = jax.vjp(added, weight.a, weight.b, weight.scales)
    found: tuple[jax.Array, jax.Array, jax.Array] = pull_back(out_bar.astype(jnp.float32))
    return found


def _product(h: jax.Array, weight: PackedLinear | LoraWeight, bias: _Operand) -> jax.Array:
    values = unpack(weight.base if isinstance(weight, LoraWeight) else weight)
    out = jnp.einsum("...I,IO->...O", h, values, preferred_element_type=jnp.float32)
    if bias is not None:
        out = out + jnp.broadcast_to(bias.astype(jnp.float32), out.shape)
    return add_adapters(h, out, weight) if isinstance(weight, LoraWeight) else out
