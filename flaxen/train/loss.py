"""Next-token log-probabilities of packed batches, and the loss that is made of them.

Training, evaluation, DPO and the parity check all score tokens here, by the functions that serving
computes with. Deliberately does not know: optimizers, steps, where batches come from.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from flaxen.data.batch import Batch
from flaxen.kernels.causal_attention import causal_attention
from flaxen.models.model import LAYER_INPUT, CacheSpec, Model, Params, logprobs

# What the backward pass computes once more in place of keeping it: nothing, or all but the input
# of each layer.
Remat = Literal["none", "layer"]
REMATS: tuple[Remat, ...] = get_args(Remat)

CHUNK = 256  # tokens whose scores of all words, [CHUNK, V] float32, are in memory at once

# The parameters to compute tokens of shape [B, T] with.
Policy = Callable[[tuple[int, int]], Params]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is minimised: the sum of all rows' losses over the sum of their counts."""

    reports: tuple[str, ...]  # the names of what else `losses` gives
    # of a batch on the host: [rows] float32
    counts: Callable[[Any], np.ndarray]
    # of what is trained, what is frozen (or None), and a batch: [rows] losses, and [rows] of what
    # else is to be reported, by name; all float32
    losses: Callable[[Policy, Params, Any], tuple[jax.Array, Mapping[str, jax.Array]]]


def next_token(model: Model, *, remat: Remat = "none") -> Objective:
    """Cross-entropy of the tokens that follow, weighted by the batch's loss weights.

    Its report is the accuracy: how much of the weight is on tokens that were the likeliest.

    Args:
      model: the model.
      remat: what the backward pass recomputes.
    """

    def losses(
        policy: Policy, frozen: Params, batch: Batch
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        del frozen  # the policy has it
        # Tokens without a loss are not scored at all.
        wanted = batch._replace(targets=jnp.where(batch.loss_weights != 0, batch.targets, -1))
        found, is_best = token_scores(model, policy(batch.tokens.shape), wanted, remat=remat)
        weights = jnp.asarray(batch.loss_weights)
        return -(weights * found).sum(axis=1), {"accuracy": (weights * is_best).sum(axis=1)}

    return Objective(reports=("accuracy",), counts=_loss_weights, losses=losses)


def _loss_weights(batch: Batch) -> np.ndarray:
    weights: np.ndarray = np.where(batch.targets >= 0, batch.loss_weights, 0).sum(axis=1)
    return weights


def token_logprobs(
    model: Model, params: Params, batch: Batch, *, remat: Remat = "none"
) -> jax.Array:
    """The log-probability of each target after its token: the one way to train and to score.

    With the C++ kernels its bits are the server's, and they are the same under `jax.grad`.

    Args:
      model: the model.
      params: as `model.forward` takes them.
      batch: [B, T] arrays.
      remat: what the backward pass recomputes.

    Returns:
      [B, T] float32; 0 where the target is -1.
    """
    return token_scores(model, params, batch, remat=remat)[0]


def token_scores(
    model: Model, params: Params, batch: Batch, *, remat: Remat = "none"
) -> tuple[jax.Array, jax.Array]:
    """As `token_logprobs`, and whether each target was the likeliest token.

    Returns:
      [B, T] float32 log-probabilities, and [B, T] booleans; 0 and False where the target is -1.
    """
    if remat not in REMATS:
        raise ValueError(f"remat {remat!r} is not supported: use {' or '.join(REMATS)}")
    segment_ids = jnp.asarray(batch.segment_ids)
    # Padding has the id -1: zeros all the way, which cost the kernels nothing at a batch's end.
    tokens = jnp.where(segment_ids > 0, batch.tokens, -1)
    forward: Callable[..., jax.Array] = functools.partial(_forward, model)
    if remat == "layer":
        policy = jax.checkpoint_policies.save_only_these_names(LAYER_INPUT)
        forward = jax.checkpoint(forward, policy=policy)
    hidden = forward(params, tokens, jnp.asarray(batch.positions), segment_ids)
    return _score_in_chunks(model, params, hidden, jnp.asarray(batch.targets))


def _forward(
    model: Model, params: Params, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array
) -> jax.Array:
    cache = (None,) * len(model.cache_specs)
    hidden, _ = model.forward(params, tokens, positions, Partial(_attend, segment_ids), cache)
    return hidden


def _attend(
    segment_ids: jax.Array,
    spec: CacheSpec,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    cache: None,
) -> tuple[jax.Array, None]:
    return causal_attention(q, k, v, segment_ids=segment_ids, window=spec.window), None


def _score_in_chunks(
    model: Model, params: Params, hidden: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Tokens with a target first, so that chunks without any can be skipped at run time."""
    shape = targets.shape
    size = min(CHUNK, targets.size)
    num_chunks = -(-targets.size // size)
    padding = num_chunks * size - targets.size
    flat_targets = jnp.pad(targets.reshape(-1), (0, padding), constant_values=-1)
    flat_hidden = jnp.pad(hidden.reshape(-1, hidden.shape[-1]), ((0, padding), (0, 0)))
    order = jnp.argsort(flat_targets < 0, stable=True)
    place = jnp.argsort(order, stable=True)

    @jax.checkpoint  # the scores of all words are computed again for the backward pass
    def score(params: Params, hidden: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = model.unembed(params, hidden)
        index = jnp.maximum(targets, 0)[:, None]
        chosen = jnp.take_along_axis(logprobs(logits), index, axis=-1)[:, 0]
        top = jax.lax.stop_gradient(logits)
        is_best = jnp.take_along_axis(top, index, axis=-1)[:, 0] >= top.max(axis=-1)
        return jnp.where(targets < 0, 0, chosen), is_best & (targets >= 0)

    def nothing(
        params: Params, hidden: jax.Array, targets: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return jnp.zeros(size, jnp.float32), jnp.zeros(size, bool)

    def chunk(
        carry: None, each: tuple[jax.Array, jax.Array]
    ) -> tuple[None, tuple[jax.Array, jax.Array]]:
        hidden, targets = each
        return carry, jax.lax.cond(targets[0] >= 0, score, nothing, params, hidden, targets)

    chunked = (
        flat_hidden[order].reshape(num_chunks, size, -1),
        flat_targets[order].reshape(num_chunks, size),
    )
    _, (found, is_best) = jax.lax.scan(chunk, None, chunked)
    back = place[: targets.size]
    return found.reshape(-1)[back].reshape(shape), is_best.reshape(-1)[back].reshape(shape)
