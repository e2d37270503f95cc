"""Mamba-2's selective state space, https://arxiv.org/abs/2405.21060."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import Array, Float

from flaxen.kernels.backend import Backend, find_implementation, implementations
from flaxen.kernels.paged_batch import PagedBatch
from flaxen.recurrences.sequences import Segments, check_states
from flaxen.recurrences.state_space import cpu, reference
from flaxen.recurrences.state_space.reference import Dynamics

IMPLEMENTATIONS: Mapping[Backend, Callable[..., tuple[jax.Array, jax.Array | None]]] = (
    implementations(reference.state_space, {Backend.CPU: cpu.state_space})
)

__all__ = ["Dynamics", "state_shape", "state_space"]


def state_shape(num_heads: int, state_dim: int, head_dim: int) -> tuple[int, ...]:
    """The shape of a sequence's state: a matrix for each head."""
    return num_heads, state_dim, head_dim


def state_space(
    x: Float[Array, "*T N P"],
    b: Float[Array, "*T G H"],
    c: Float[Array, "*T G H"],
    dynamics: Dynamics,
    states: Any,
    batch: PagedBatch | Segments,
    *,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    backend: Backend,
) -> tuple[Float[Array, "*T N P"], Any]:
    """Mamba-2's state space. For each token and head, with dt = softplus(dt + dt_bias) within its
    limits:

    S = exp(-exp(a_log) * dt) * S + b (dt * x);  out = c S + skip * x.

    Args:
      x: [T, N, P] for a served step, [B, T, N, P] for training.
      b: [..., G, H]; each group serves N / G heads.
      c: like b.
      dynamics: the time steps, and each head's own numbers.
      states: [slots, N, H, P] float32, or None for `Segments`.
      batch: the sequences of the tokens.
      dt_limit: the least and the largest time step.
      backend: what computes.

    Returns:
      The output in x's dtype, computed in float32, zeros for padding; and the new states.

    Raises:
      ValueError: the shapes do not match, or the states are not those of the batch.
    """
    num_heads, head_dim = x.shape[-2:]
    if b.shape != c.shape or b.shape[:-2] != x.shape[:-2] or num_heads % b.shape[-2]:
        raise ValueError(
            f"x {x.shape} does not go with b {b.shape} and c {c.shape}: they are [..., N, P] and "
            "twice [..., G, H], with N a multiple of G"
        )
    check_states(states, state_shape(num_heads, b.shape[-1], head_dim), batch)
    run = find_implementation("state_space", IMPLEMENTATIONS, backend)
    return run(x, b, c, dynamics, states, batch, dt_limit)
