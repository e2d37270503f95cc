"""Linear layers some of whose weights store their inputs in an order of their own.

The inputs are brought into that order before each product, so every backend's kernels multiply such
weights like others. Deliberately does not know backends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from flaxen.kernels.linear.lora import LoraWeight
from flaxen.kernels.linear.reference import AnyWeight, Operands, Options
from flaxen.kernels.linear.weight import LinearWeight

Linears = Callable[..., tuple[jax.Array, ...]]  # like `reference.linears`


def order_of(weight: AnyWeight) -> jax.Array | None:
    """The order of a weight's stored inputs; None for the layer's own."""
    base = weight.base if isinstance(weight, LoraWeight) else weight
    return base.order if isinstance(base, LinearWeight) else None


def linears(
    run: Linears,
    normalize: Callable[[jax.Array, jax.Array, float], jax.Array],
    operands: Operands,
    options: Options,
) -> tuple[jax.Array, ...]:
    """Like `reference.linears`.

    Args:
      run: the backend's, for weights whose inputs are in order.
      normalize: the backend's RMS norm.
      operands: as in `reference.linears`.
      options: the same.
    """
    x, weights, biases, norm, residual = operands
    h = x if norm is None else normalize(x, norm, options.eps)
    wide = Options(jnp.dtype(jnp.float32))
    outs: list[jax.Array] = []
    for weight, bias in zip(weights, biases, strict=True):
        order = order_of(weight)
        rows = h if order is None else jnp.take(h, order, axis=-1)
        outs += run(Operands(rows, (_in_order(weight),), (bias,)), wide)
    if options.gated:
        outs = [jax.nn.silu(outs[0]) * outs[1]]
    if residual is not None:
        outs[0] = outs[0] + residual.astype(jnp.float32)
    return tuple(out.astype(options.out_dtype) for out in outs)


def _in_order(weight: AnyWeight) -> AnyWeight:
    """The weight for inputs in its stored order; adapters, which are in the layer's, follow it."""
    order = order_of(weight)
    if order is None:
        return weight
    if isinstance(weight, LoraWeight):
        base = replace(weight.base, order=None)
        return replace(weight, base=base, a=jnp.take(weight.a, order, axis=1))
    assert isinstance(weight, LinearWeight)
    return replace(weight, order=None)
