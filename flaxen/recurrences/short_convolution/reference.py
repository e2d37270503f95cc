"""The short convolution in plain jnp."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from flaxen.kernels.paged_batch import PagedBatch
from flaxen.recurrences.sequences import Segments, over_sequences


def short_convolution(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    states: jax.Array | None,
    batch: PagedBatch | Segments,
    has_silu: bool,
) -> tuple[jax.Array, jax.Array | None]:
    """See flaxen.recurrences.short_convolution.short_convolution."""
    shape = (weight.shape[0] - 1, weight.shape[1])
    params = jax.tree.map(lambda each: each.astype(jnp.float32), (weight, bias))
    update = functools.partial(_update, has_silu=has_silu)
    out, states = over_sequences(update, x, params, shape, states, batch)
    return out.astype(x.dtype), states


def _update(
    state: jax.Array, x: jax.Array, params: tuple[jax.Array, jax.Array | None], *, has_silu: bool
) -> tuple[jax.Array, jax.Array]:
    """One token: its output, and the inputs that the next one needs."""
    weight, bias = params
    inputs = jnp.concatenate([state, x.astype(jnp.float32)[None]])
    out = jnp.sum(weight * inputs, axis=0)
    if bias is not None:
        out = out + bias
    return inputs[1:], jax.nn.silu(out) if has_silu else out
