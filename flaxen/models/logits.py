"""`flaxen.logits`: a model over whole sequences, in one call, for JAX's transformations.

Deliberately does not know caches or padding: serving and training call `Model.forward` themselves.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxen.models.attention_impls import causal
from flaxen.models.model import Model, Params


def logits(model: Model, params: Params, tokens: jax.Array) -> jax.Array:
    """Computes the logits of whole sequences, which do not see each other.

    It is a pure function of `params` and `tokens`, for `jax.grad`, `jax.vmap` and `jax.jit` (with
    the model bound, as in `jax.jit(functools.partial(flaxen.logits, model))`). `jax.nn.log_softmax`
    of row t gives the log-probabilities of token t + 1, as the server reports them.

    Args:
      model: from `flaxen.load` or a bridge such as `flaxen.from_nnx`.
      params: its parameters; gradients are taken with respect to plain arrays, not to packed ones.
      tokens: token ids, integers [B, T].

    Returns:
      float32 [B, T, V].

    Raises:
      ValueError: the tokens are not integers, or do not have two axes.
    """
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(
            f"tokens must be integers [B, T], got {tokens.dtype} of the shape {list(tokens.shape)}:"
            " write jnp.asarray(ids)[None] for one sequence"
        )
    tokens = tokens.astype(jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[-1], dtype=jnp.int32), tokens.shape)
    cache = (None,) * len(model.cache_specs)
    attend = causal(None, model.backend, model.placement)
    hidden, _ = model.forward(params, tokens, positions, attend, cache)
    return model.unembed(params, hidden)
