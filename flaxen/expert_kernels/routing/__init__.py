"""Routing: which experts a token uses, and with which weights.

Deliberately does not know what experts compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from flaxen.expert_kernels.routing import cpu, reference
from flaxen.expert_kernels.routing.reference import scores_of
from flaxen.expert_kernels.routing.spec import RoutingSpec
from flaxen.kernels.backend import Backend, find_implementation

__all__ = ["RoutingSpec", "route", "scores_of"]

Implementation = Callable[[jax.Array, jax.Array | None, RoutingSpec], tuple[jax.Array, jax.Array]]
IMPLEMENTATIONS: Mapping[Backend, Implementation] = {
    **dict.fromkeys(Backend, reference.route),
    Backend.CPU: cpu.route,
}


def route(
    logits: Float[Array, "*B E"],
    bias: Float[Array, " E"] | None,
    spec: RoutingSpec,
    *,
    backend: Backend,
) -> tuple[Int32[Array, "*B k"], Float[Array, "*B k"]]:
    """Each token's experts, best first, and their weights: int32 and float32 [..., k].

    Among equal scores the first expert's is the better one. The weights have gradients by the
    logits.

    Args:
      logits: [..., E], computed with in float32.
      bias: [E], added to the scores for the choice alone; or None.
      spec: the router's settings.
      backend: what computes.

    Raises:
      ValueError: the settings do not fit the number of experts.
    """
    num_experts = logits.shape[-1]
    spec.check(num_experts)
    rows = logits.reshape(-1, num_experts).astype(jnp.float32)
    wide = None if bias is None else bias.astype(jnp.float32)
    ids, weights = find_implementation("routing", IMPLEMENTATIONS, backend)(rows, wide, spec)
    shape = (*logits.shape[:-1], spec.k)
    return ids.reshape(shape), weights.reshape(shape)
