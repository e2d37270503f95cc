"""`flaxen.encode`: an encoder over whole sequences, in one call, for JAX's transformations.

Deliberately does not know pooling or padding of a batch: `segment_ids` says what is padding.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxen.models.attention_impls import causal
from flaxen.models.model import Model, Params


def encode(
    model: Model, params: Params, tokens: jax.Array, segment_ids: jax.Array | None = None
) -> jax.Array:
    """Computes the last hidden states of whole sequences, which do not see each other.

    It is a pure function of `params` and `tokens`, for `jax.grad`, `jax.vmap` and `jax.jit` (with
    the model bound, as in `jax.jit(functools.partial(flaxen.encode, model))`). For a decoder these
    are the states after its final norm.

    Args:
      model: from `flaxen.load`.
      params: its parameters; gradients are taken with respect to plain arrays, not to packed ones.
      tokens: token ids, integers [B, T].
      segment_ids: integers [B, T], equal within a sequence and different in the next, 0 for
        padding; None means that each row is one sequence.

    Returns:
      [B, T, D] in the parameters' dtype.

    Raises:
      ValueError: the tokens are not integers or do not have two axes, segment_ids has another
        shape, or the model does not give its hidden states.
    """
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(
            f"tokens must be integers [B, T], got {tokens.dtype} of the shape {list(tokens.shape)}:"
            " write jnp.asarray(ids)[None] for one sequence"
        )
    if segment_ids is not None and segment_ids.shape != tokens.shape:
        raise ValueError(
            f"segment_ids must be [B, T] like tokens, {list(tokens.shape)}, got "
            f"{list(segment_ids.shape)}"
        )
    if model.final_norm_on is None:
        raise ValueError(
            "this model, a definition of somebody else's, does not give its hidden states after "
            "the final norm: use flaxen.logits"
        )
    tokens = tokens.astype(jnp.int32)
    attend = causal(segment_ids, model.backend, model.placement)
    cache = (None,) * len(model.cache_specs)
    hidden, _ = model.forward(params, tokens, _positions(tokens, segment_ids), attend, cache)
    return model.final_norm(params, hidden)


def _positions(tokens: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    """Each token's position in its own sequence."""
    index = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    if segment_ids is None:
        return index
    begins = jnp.concatenate(
        [jnp.ones_like(index[:, :1], bool), segment_ids[:, 1:] != segment_ids[:, :-1]], axis=1
    )
    return index - jax.lax.cummax(jnp.where(begins, index, 0), axis=1)
