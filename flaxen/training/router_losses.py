"""Losses of the routers of experts, beside that of the tokens.

DeepSeek V3's balance without a loss, which moves the bias of the choice by the load, is not
supported: a bias keeps the value that it has. Deliberately does not know the loss of the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from flaxen.models.layers.part import Routing
from flaxen.models.model import Model

AUX = ("router_balance", "router_z")


@dataclass(frozen=True, kw_only=True)
class RouterLosses:
    """The weights of the losses; 0 leaves one out.

    Raises:
      ValueError: a weight is below 0.
    """

    # The balance of experts, https://arxiv.org/abs/2101.03961 (2.2), as transformers computes it
    # over all layers: its router_aux_loss_coef. It is 1 for k = 1 where the balance is perfect.
    balance: float = 0.0
    # The mean of the squared logsumexp of the logits, https://arxiv.org/abs/2202.08906.
    z: float = 0.0

    def __post_init__(self) -> None:
        if self.balance < 0 or self.z < 0:
            raise ValueError(
                f"the weights of router losses must be at least 0, got {self.balance} and {self.z}"
            )

    @property
    def is_wanted(self) -> bool:
        """Whether a loss has a weight, so that it must be computed."""
        return self.balance > 0 or self.z > 0

    def check(self, model: Model) -> None:
        """Refuses a model that does not return its routing.

        Raises:
          ValueError: it has no experts, or not equally many in all layers, or is in stages.
        """
        if not self.is_wanted:
            return
        if model.num_stages > 1:
            raise ValueError(
                "router losses need the routing of all layers, which pipeline stages do not "
                "return: use a mesh with pipeline=1, or set both weights to 0"
            )
        if len({*model.num_experts}) != 1:
            raise ValueError(
                f"router losses need layers with equally many experts, and the model has "
                f"{list(model.num_experts) or 'none'}: set both weights to 0"
            )


def router_losses(routings: Sequence[Routing], is_token: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The balance loss and the z-loss of a batch, over all layers: two float32 numbers.

    Args:
      routings: of each layer with experts.
      is_token: [B, T] whether a token is one, and no padding.
    """
    logits = jnp.stack([each.logits for each in routings])  # [L, B, T, E]
    num_experts = logits.shape[-1]
    weights = jnp.broadcast_to(is_token.astype(jnp.float32), logits.shape[:-1])
    weights = weights / jnp.maximum(weights.sum(), 1)
    # How often each expert was chosen, [L, B, T, E]; layers may choose different numbers of them.
    chosen = jnp.stack([_one_hot(each.ids, num_experts).sum(axis=-2) for each in routings])
    share = jnp.einsum("lbt,lbte->e", weights, chosen)
    probability = jnp.einsum("lbt,lbte->e", weights, jax.nn.softmax(logits, axis=-1))
    balance = num_experts * jnp.sum(jax.lax.stop_gradient(share) * probability)
    z = jnp.sum(weights * jnp.square(jax.nn.logsumexp(logits, axis=-1)))
    return balance, z


def _one_hot(ids: jax.Array, num_experts: int) -> jax.Array:
    return jax.nn.one_hot(ids, num_experts, dtype=jnp.float32)
