"""The router in plain jnp: the definition of what every implementation computes.

Dimension key: T tokens, E experts, k experts of a token.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxen.expert_kernels.routing.spec import RoutingSpec


def route(
    logits: jax.Array, bias: jax.Array | None, spec: RoutingSpec
) -> tuple[jax.Array, jax.Array]:
    """Each token's experts, best first, and their weights: int32 and float32 [T, k].

    Among equal scores the first expert's is the better one, as in torch.topk on a CPU with few
    experts (it promises no order). A bias is added to the scores for the choice alone.

    Args:
      logits: float32 [T, E].
      bias: float32 [E] or None.
      spec: the router's settings.
    """
    ids = jax.lax.stop_gradient(_choose(logits, bias, spec))
    return ids, weights_of(logits, ids, spec)


def weights_of(logits: jax.Array, ids: jax.Array, spec: RoutingSpec) -> jax.Array:
    """The weights [T, k] of the chosen experts; differentiable."""
    weights = jnp.take_along_axis(scores_of(logits, spec), ids, axis=-1)
    if spec.normalize:
        weights = weights / (jnp.sum(weights, axis=-1, keepdims=True) + spec.epsilon)
    return weights * spec.scale


def scores_of(logits: jax.Array, spec: RoutingSpec) -> jax.Array:
    """The scores [T, E]."""
    by_name = {"sigmoid": jax.nn.sigmoid, "softmax": jax.nn.softmax}  # over the last axis
    scores: jax.Array = by_name[spec.score](logits)
    return scores


def _choose(logits: jax.Array, bias: jax.Array | None, spec: RoutingSpec) -> jax.Array:
    num_tokens, num_experts = logits.shape
    scores = scores_of(logits, spec)
    # Without a bias, by the logits: they have the order of scores, and differ where large scores
    # are equal by rounding.
    choice = logits if bias is None else scores + bias[None]
    if spec.groups_used < spec.num_groups:
        by_group = (num_tokens, spec.num_groups, -1)
        grouped = (scores if bias is None else choice).reshape(by_group)
        group_scores = jax.lax.top_k(grouped, spec.group_best)[0].sum(axis=-1)
        best = jax.lax.top_k(group_scores, spec.groups_used)[1]
        is_used = jnp.any(best[:, :, None] == jnp.arange(spec.num_groups)[None, None], axis=1)
        choice = jnp.where(is_used[:, :, None], choice.reshape(by_group), -jnp.inf)
        choice = choice.reshape(num_tokens, num_experts)
    ids: jax.Array = jax.lax.top_k(choice, spec.k)[1]
    return ids.astype(jnp.int32)
