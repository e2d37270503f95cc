"""Direct preference optimisation, https://arxiv.org/abs/2305.18290.

The reference model is the frozen base under the adapters, without a copy. Deliberately does not
know: optimizers, where pairs come from.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.data.batch import Batch, PairBatch
from flaxen.models.model import Model, Params
from flaxen.training.loss import Losses, Objective, Policy, Remat, token_logprobs


def dpo(
    model: Model, *, beta: float = 0.1, label_smoothing: float = 0.0, remat: Remat = "none"
) -> Objective:
    """The sigmoid loss over preference pairs; loss weights must be 0 or 1.

    A pair counts if at least one of its tokens has a loss. So rows of padding, and pairs that were
    cut before both answers, change neither the loss nor the size of the gradient. The auxiliary
    values are means over the pairs that count: the accuracy (the share of pairs whose chosen answer
    has the higher reward), and the rewards of the chosen and the rejected answer. A reward is beta
    times the difference of the answer's log-probability under the policy and under the reference.

    Args:
      model: the model.
      beta: the strength of the penalty for leaving the reference, above 0.
      label_smoothing: the assumed share of pairs with a wrong label, from 0 to below 0.5.
      remat: what the backward pass computes again to save memory.

    Raises:
      ValueError: a value out of its range.
    """
    if not beta > 0:
        raise ValueError(f"DPO's beta must be above 0, got {beta}")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(
            f"DPO's label smoothing must be from 0 to below 0.5, got {label_smoothing}: from 0.5 "
            "on, the rejected would be preferred"
        )

    def losses(
        policy: Policy, frozen: Params, batch: PairBatch, key: jax.Array | None = None
    ) -> Losses:
        del key  # no randomness: both sides are computed as in serving
        rows = _one_batch(batch)
        policy_logprobs = _row_logprobs(model, policy(rows.tokens.shape), rows, remat)
        reference = jax.lax.stop_gradient(_row_logprobs(model, frozen, rows, remat))
        rewards = beta * (policy_logprobs - reference).reshape(-1, 2)
        chosen, rejected = rewards[:, 0], rewards[:, 1]
        margin = chosen - rejected
        loss = -(
            (1 - label_smoothing) * jax.nn.log_sigmoid(margin)
            + label_smoothing * jax.nn.log_sigmoid(-margin)
        )
        aux = {
            "accuracy": (margin > 0).astype(jnp.float32),
            "chosen_reward": chosen,
            "rejected_reward": rejected,
        }
        is_pair = jnp.asarray(_has_loss(batch))
        of_pairs = {name: jnp.where(is_pair, each, 0) for name, each in aux.items()}
        return Losses(jnp.where(is_pair, loss, 0), of_pairs)

    return Objective(
        aux=("accuracy", "chosen_reward", "rejected_reward"),
        vocab_size=model.vocab_size,
        denominators=_pairs,
        losses=losses,
    )


def _pairs(batch: PairBatch) -> np.ndarray:
    return np.asarray(_has_loss(batch), np.float32)


def _has_loss(batch: PairBatch) -> Any:
    """[B] booleans, False for the padding rows that fill up the last batch."""
    return ((batch.chosen.loss_weights != 0) | (batch.rejected.loss_weights != 0)).any(axis=1)


def _one_batch(pairs: PairBatch) -> Batch:
    """[2B, T]: each pair's chosen row, then its rejected one, so that a pair stays in one
    microbatch.
    """

    def together(chosen: Any, rejected: Any) -> jax.Array:
        both = jnp.stack([jnp.asarray(chosen), jnp.asarray(rejected)], axis=1)
        return both.reshape(-1, chosen.shape[1])

    rows: Batch = jax.tree.map(together, pairs.chosen, pairs.rejected)
    return rows


def _row_logprobs(model: Model, params: Params, rows: Batch, remat: Remat) -> jax.Array:
    wanted = rows._replace(targets=jnp.where(rows.loss_weights != 0, rows.targets, -1))
    return token_logprobs(model, params, wanted, remat=remat).sum(axis=1)
