"""The gated delta rule in plain jnp."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxen.kernels.paged_batch import PagedBatch
from flaxen.recurrences.sequences import Segments, over_sequences

_EPS = 1e-6  # added to the squared length of queries and keys


class Gates(NamedTuple):
    """What a state forgets and learns at each token, for each of N value heads."""

    a: jax.Array  # [..., N]; the state decays by exp(-exp(a_log) * softplus(a + dt_bias))
    b: jax.Array  # [..., N]; sigmoid(b) of the difference is learned
    a_log: jax.Array  # [N]
    dt_bias: jax.Array  # [N]


def gated_delta(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    gates: Gates,
    states: jax.Array | None,
    batch: PagedBatch | Segments,
) -> tuple[jax.Array, jax.Array | None]:
    """See flaxen.recurrences.gated_delta.gated_delta."""
    shape = (v.shape[-2], q.shape[-1], v.shape[-1])
    tokens = (q, k, v, gates.a, gates.b)
    out, states = over_sequences(
        _update, tokens, (gates.a_log, gates.dt_bias), shape, states, batch
    )
    return out.astype(q.dtype), states


def _update(
    state: jax.Array, token: tuple[jax.Array, ...], params: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """One token: state [N, H, P], q and k [K, H], v [N, P], a and b [N]."""
    q, k, v, a, b = (each.astype(jnp.float32) for each in token)
    a_log, dt_bias = (each.astype(jnp.float32) for each in params)
    decay = jnp.exp(-jnp.exp(a_log) * jax.nn.softplus(a + dt_bias))
    repeats = v.shape[0] // q.shape[0]
    q, k = (jnp.repeat(_unit(each), repeats, axis=0) for each in (q, k))
    q = q * q.shape[-1] ** -0.5
    state = state * decay[:, None, None]
    found = jnp.sum(state * k[:, :, None], axis=1)
    learned = (v - found) * jax.nn.sigmoid(b)[:, None]
    state = state + k[:, :, None] * learned[:, None, :]
    return state, jnp.sum(state * q[:, :, None], axis=1)


def _unit(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + _EPS)
