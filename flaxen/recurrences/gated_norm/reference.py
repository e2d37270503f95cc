"""The gated RMS norm in plain jnp."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Options(NamedTuple):
    """What is the same for all rows."""

    eps: float
    group: int
    is_gate_first: bool


def gated_norm(x: jax.Array, gate: jax.Array, weight: jax.Array, options: Options) -> jax.Array:
    """See flaxen.recurrences.gated_norm.gated_norm."""
    x32, opened = x.astype(jnp.float32), jax.nn.silu(gate.astype(jnp.float32))
    if options.is_gate_first:
        x32 = x32 * opened
    groups = x32.reshape(*x.shape[:-1], -1, options.group)
    scale = jax.lax.rsqrt(jnp.mean(groups * groups, axis=-1, keepdims=True) + options.eps)
    out = (groups * scale).reshape(x.shape) * jnp.broadcast_to(weight.astype(jnp.float32), x.shape)
    return (out if options.is_gate_first else out * opened).astype(x.dtype)
