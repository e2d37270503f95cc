"""Mamba-2's state space in plain jnp."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxen.kernels.paged_batch import PagedBatch
from flaxen.recurrences.sequences import Segments, over_sequences


class Dynamics(NamedTuple):
    """The time steps of the tokens, and the numbers of each of N heads."""

    dt: jax.Array  # [..., N], before its bias and softplus
    a_log: jax.Array  # [N]: a state decays by exp(-exp(a_log) * dt)
    dt_bias: jax.Array  # [N]
    skip: jax.Array  # [N]: multiplies x in the output


def state_space(
    x: jax.Array,
    b: jax.Array,
    c: jax.Array,
    dynamics: Dynamics,
    states: jax.Array | None,
    batch: PagedBatch | Segments,
    dt_limit: tuple[float, float],
) -> tuple[jax.Array, jax.Array | None]:
    """See flaxen.recurrences.state_space.state_space."""
    shape = (x.shape[-2], b.shape[-1], x.shape[-1])
    update = functools.partial(_update, dt_limit=dt_limit)
    tokens = (x, b, c, dynamics.dt)
    out, states = over_sequences(update, tokens, tuple(dynamics[1:]), shape, states, batch)
    return out.astype(x.dtype), states


def _update(
    state: jax.Array,
    token: tuple[jax.Array, ...],
    params: tuple[jax.Array, ...],
    *,
    dt_limit: tuple[float, float],
) -> tuple[jax.Array, jax.Array]:
    """One token: state [N, H, P], x [N, P], b and c [G, H], dt [N]."""
    x, b, c, dt = (each.astype(jnp.float32) for each in token)
    a_log, dt_bias, skip = (each.astype(jnp.float32) for each in params)
    dt = jnp.clip(jax.nn.softplus(dt + dt_bias), *dt_limit)
    b, c = (jnp.repeat(each, x.shape[0] // each.shape[0], axis=0) for each in (b, c))
    added = b[:, :, None] * (x * dt[:, None])[:, None, :]
    state = state * jnp.exp(-jnp.exp(a_log) * dt)[:, None, None] + added
    return state, jnp.sum(state * c[:, :, None], axis=1) + skip[:, None] * x
