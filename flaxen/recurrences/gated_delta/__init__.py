"""The gated delta rule, https://arxiv.org/abs/2412.06464: linear attention whose state forgets, and
replaces the value that it has for a key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import Array, Float

from flaxen.kernels.backend import Backend, find_implementation, implementations
from flaxen.kernels.paged_batch import PagedBatch
from flaxen.recurrences.gated_delta import cpu, reference
from flaxen.recurrences.gated_delta.reference import Gates
from flaxen.recurrences.sequences import Segments, check_states

IMPLEMENTATIONS: Mapping[Backend, Callable[..., tuple[jax.Array, jax.Array | None]]] = (
    implementations(reference.gated_delta, {Backend.CPU: cpu.gated_delta})
)

__all__ = ["Gates", "gated_delta", "state_shape"]


def state_shape(num_value_heads: int, key_dim: int, value_dim: int) -> tuple[int, ...]:
    """The shape of a sequence's state: a matrix from keys to values for each value head."""
    return num_value_heads, key_dim, value_dim


def gated_delta(
    q: Float[Array, "*T K H"],
    k: Float[Array, "*T K H"],
    v: Float[Array, "*T N P"],
    gates: Gates,
    states: Any,
    batch: PagedBatch | Segments,
    *,
    backend: Backend,
) -> tuple[Float[Array, "*T N P"], Any]:
    """The gated delta rule. For each token and value head, with q and k of unit length and q
    divided by sqrt(H):

    S = exp(-exp(a_log) * softplus(a + dt_bias)) * S;  S += k (sigmoid(b) * (v - k S));  out = q S.

    Args:
      q: [T, K, H] for a served step, [B, T, K, H] for training; each serves N / K value heads.
      k: like q.
      v: [..., N, P].
      gates: what the state forgets and learns.
      states: [slots, N, H, P] float32, or None for `Segments`.
      batch: the sequences of the tokens.
      backend: what computes.

    Returns:
      The output in q's dtype, computed in float32, zeros for padding; and the new states.

    Raises:
      ValueError: the shapes do not match, or the states are not those of the batch.
    """
    num_heads, value_dim = v.shape[-2:]
    if q.shape != k.shape or q.shape[:-2] != v.shape[:-2] or num_heads % q.shape[-2]:
        raise ValueError(
            f"q {q.shape} does not go with k {k.shape} and v {v.shape}: they are twice [..., K, H] "
            "and [..., N, P], with N a multiple of K"
        )
    check_states(states, state_shape(num_heads, q.shape[-1], value_dim), batch)
    run = find_implementation("gated_delta", IMPLEMENTATIONS, backend)
    return run(q, k, v, gates, states, batch)
