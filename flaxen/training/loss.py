"""Next-token log-probabilities of packed batches, and the cross-entropy loss.

Training, evaluation, DPO and the parity check compute log-probabilities here, with the functions
that serving uses. Deliberately does not know: optimizers, steps, where batches come from.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.data.batch import Batch
from flaxen.models import attention_impls
from flaxen.models.gathering import gathered, is_divided, keeps_what_is_not_gathered
from flaxen.models.model import LAYER_INPUT, Model, Params
from flaxen.training.chunked_logprobs import logprobs_in_chunks
from flaxen.training.router_losses import AUX as router_aux
from flaxen.training.router_losses import RouterLosses, router_losses

# What the backward pass computes again instead of keeping: nothing, or all but each layer's input.
Remat = Literal["none", "layer"]
REMATS: tuple[Remat, ...] = get_args(Remat)

# Gives the parameters for tokens of shape [B, T]; the shape matters for adapter ids and dropout.
Policy = Callable[[tuple[int, int]], Params]


class Losses(NamedTuple):
    """What an objective computes for a batch."""

    rows: jax.Array  # [rows] float32
    aux: Mapping[str, jax.Array]  # auxiliary values to report, by name; each [rows] float32
    # the new values of collections that are not trained, such as batch statistics
    collections: Mapping[str, Any] = MappingProxyType({})


_NO_ROUTER = RouterLosses()
# Hidden states, changed collections, routings.
_Hidden = tuple[jax.Array, Mapping[str, Any], tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is minimised: the sum of all rows' losses over the sum of their denominators."""

    aux: tuple[str, ...]  # the names of the auxiliary values of `losses`
    vocab_size: int  # token ids are below it
    # each row's share of the divisor, from a batch on the host: [rows] float32
    denominators: Callable[[Any], np.ndarray]
    # Gets the policy, the frozen parameters (or None), a batch, and a key for the model's own
    # randomness in training (None computes as in serving).
    losses: Callable[[Policy, Params, Any, jax.Array | None], Losses]


def next_token(
    model: Model, *, remat: Remat = "none", router: RouterLosses = _NO_ROUTER
) -> Objective:
    """Next-token cross-entropy, weighted by the batch's loss weights.

    The auxiliary value is the accuracy: the share of the weight on targets that were the likeliest
    token. Router losses, of a microbatch, are auxiliary values too, and are added with weights.

    Args:
      model: the model.
      remat: what the backward pass recomputes.
      router: the losses of the routers.

    Raises:
      ValueError: the model can't have these.
    """
    router.check(model)

    def losses(
        policy: Policy, frozen: Params, batch: Batch, key: jax.Array | None = None
    ) -> Losses:
        del frozen  # the policy includes it
        # No logits are computed for tokens without a loss.
        wanted = batch._replace(targets=jnp.where(batch.loss_weights != 0, batch.targets, -1))
        params = policy(batch.tokens.shape)
        hidden, collections, routings = _hidden(
            model, params, wanted, remat, key, is_routed=router.is_wanted
        )
        found, is_best = logprobs_in_chunks(model, params, hidden, jnp.asarray(wanted.targets))
        weights = jnp.asarray(batch.loss_weights)
        aux = {"accuracy": (weights * is_best).sum(axis=1)}
        loss = -(weights * found).sum(axis=1)
        if router.is_wanted:
            balance, z = router_losses(routings, jnp.asarray(batch.segment_ids) > 0)
            # Each row's share, so that microbatches are weighted as their tokens are.
            rows = jnp.where(wanted.targets >= 0, weights, 0).sum(axis=1)
            aux |= {"router_balance": balance * rows, "router_z": z * rows}
            loss = loss + (router.balance * balance + router.z * z) * rows
        return Losses(loss, aux, collections)

    return Objective(
        aux=("accuracy", *(router_aux if router.is_wanted else ())),
        vocab_size=model.vocab_size,
        denominators=_loss_weights,
        losses=losses,
    )


def _loss_weights(batch: Batch) -> np.ndarray:
    weights: np.ndarray = np.where(batch.targets >= 0, batch.loss_weights, 0).sum(axis=1)
    return weights


def token_logprobs(
    model: Model, params: Params, batch: Batch, *, remat: Remat = "none"
) -> jax.Array:
    """The log-probability of each target, for training and evaluation alike.

    With the C++ kernels it equals the server's to the bit, also under `jax.grad`.

    Args:
      model: the model.
      params: as `model.forward` takes them.
      batch: arrays [B, T].
      remat: what the backward pass recomputes.

    Returns:
      [B, T] float32; 0 where the target is -1.
    """
    return logprobs_and_correct(model, params, batch, remat=remat)[0]


def logprobs_and_correct(
    model: Model, params: Params, batch: Batch, *, remat: Remat = "none"
) -> tuple[jax.Array, jax.Array]:
    """Like `token_logprobs`, and whether each target was the likeliest token.

    Returns:
      [B, T] float32 log-probabilities, and [B, T] booleans; 0 and False where the target is -1.
    """
    hidden, _, _ = _hidden(model, params, batch, remat, None)
    return logprobs_in_chunks(model, params, hidden, jnp.asarray(batch.targets))


def _hidden(
    model: Model,
    params: Params,
    batch: Batch,
    remat: Remat,
    key: jax.Array | None,
    *,
    is_routed: bool = False,
) -> _Hidden:
    """The hidden states [B, T, D]; with a key those of training, and the collections that it
    changes; and, if wanted, the routing of each layer with experts.
    """
    if remat not in REMATS:
        raise ValueError(f"remat {remat!r} is not supported: use {' or '.join(REMATS)}")
    segment_ids = jnp.asarray(batch.segment_ids)
    # Padding has the id -1 and stays zeros, which cost the kernels nothing at a batch's end.
    tokens = jnp.where(segment_ids > 0, batch.tokens, -1)
    forward: Callable[..., _Hidden] = functools.partial(_forward, model, is_routed)
    if is_divided(model) and remat == "none":
        forward = jax.checkpoint(forward, policy=keeps_what_is_not_gathered)
    if remat == "layer":
        policy = jax.checkpoint_policies.save_only_these_names(LAYER_INPUT)
        forward = jax.checkpoint(forward, policy=policy)
    return forward(params, tokens, jnp.asarray(batch.positions), segment_ids, key)


def _forward(
    model: Model,
    is_routed: bool,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    segment_ids: jax.Array,
    key: jax.Array | None,
) -> _Hidden:
    params = gathered(model, params)
    attend = attention_impls.causal(segment_ids, model.backend, model.placement)
    if key is not None and model.train_forward_on is not None:
        return *model.train_forward(params, tokens, positions, attend, key), ()
    cache = (None,) * len(model.cache_specs)
    if is_routed:
        hidden, _, routings = model.routed_forward(params, tokens, positions, attend, cache)
        return hidden, {}, routings
    hidden, _ = model.forward(params, tokens, positions, attend, cache)
    return hidden, {}, ()
