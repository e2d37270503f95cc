"""Log-probabilities of packed batches, with the logits of a chunk of tokens in memory at once.

Training and evaluation share them. The backward pass computes a chunk's logits again, and chunks
without a target are skipped in both directions. Deliberately does not know losses.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from flaxen.models.model import Model, Params, logprobs
from flaxen.training.sharded_logprobs import logprobs_on_mesh

_Found = tuple[jax.Array, jax.Array]  # log-probabilities, and whether each was the highest

CHUNK = 256  # tokens whose logits [CHUNK, V] float32 are in memory at once


def logprobs_in_chunks(
    model: Model, params: Params, hidden: jax.Array, targets: jax.Array
) -> _Found:
    """The log-probability of each target, and whether it was the likeliest token.

    Tokens with a target are ordered first, so that chunks without any can be skipped at run time.

    Args:
      model: the model; it may have a mesh.
      params: as `model.forward` takes them, not gathered.
      hidden: [B, T, D] from `model.forward`.
      targets: [B, T]; -1 for none.

    Returns:
      [B, T] float32 log-probabilities, and [B, T] booleans; 0 and False where the target is -1.
    """
    if model.placement is not None:
        return logprobs_on_mesh(model, params, hidden, targets, chunk=CHUNK)
    shape = targets.shape
    size = min(CHUNK, targets.size)
    num_chunks = -(-targets.size // size)
    padding = num_chunks * size - targets.size
    flat_targets = jnp.pad(targets.reshape(-1), (0, padding), constant_values=-1)
    flat_hidden = jnp.pad(hidden.reshape(-1, hidden.shape[-1]), ((0, padding), (0, 0)))
    order = jnp.argsort(flat_targets < 0, stable=True)
    place = jnp.argsort(order, stable=True)

    def chunk(carry: None, each: tuple[jax.Array, jax.Array]) -> tuple[None, _Found]:
        return carry, _logprobs_of_chunk(model, params, *each)

    chunked = (
        flat_hidden[order].reshape(num_chunks, size, -1),
        flat_targets[order].reshape(num_chunks, size),
    )
    _, (found, is_best) = jax.lax.scan(chunk, None, chunked)
    back = place[: targets.size]
    return found.reshape(-1)[back].reshape(shape), is_best.reshape(-1)[back].reshape(shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _logprobs_of_chunk(
    model: Model, params: Params, hidden: jax.Array, targets: jax.Array
) -> _Found:
    """The log-probabilities of a chunk, whose first token has a target if any has.

    The backward pass computes the logits again, and is skipped like the forward. JAX's own gradient
    of a `cond` in a `scan` would keep the parameters once for each chunk.
    """
    return _logprobs_if_any(model, params, hidden, targets)


def _logprobs_if_any(model: Model, params: Params, hidden: jax.Array, targets: jax.Array) -> _Found:
    out: _Found = jax.lax.cond(
        targets[0] >= 0, functools.partial(_logprobs, model), _no_logprobs, params, hidden, targets
    )
    return out


def _logprobs(model: Model, params: Params, hidden: jax.Array, targets: jax.Array) -> _Found:
    logits = model.unembed(params, hidden)
    index = jnp.maximum(targets, 0)[:, None]
    chosen = jnp.take_along_axis(logprobs(logits, model.backend), index, axis=-1)[:, 0]
    is_best = jnp.take_along_axis(logits, index, axis=-1)[:, 0] >= logits.max(axis=-1)
    return jnp.where(targets < 0, 0, chosen), is_best & (targets >= 0)


def _no_logprobs(params: Params, hidden: jax.Array, targets: jax.Array) -> _Found:
    return jnp.zeros(targets.shape, jnp.float32), jnp.zeros(targets.shape, bool)


_Kept = tuple[Params, jax.Array, jax.Array]


def _logprobs_of_chunk_forward(
    model: Model, params: Params, hidden: jax.Array, targets: jax.Array
) -> tuple[_Found, _Kept]:
    return _logprobs_if_any(model, params, hidden, targets), (params, hidden, targets)


def _logprobs_of_chunk_backward(
    model: Model, kept: _Kept, cotangents: tuple[jax.Array, Any]
) -> tuple[Params, jax.Array, None]:
    params, hidden, targets = kept
    leaves, structure = jax.tree.flatten(params)
    is_float = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]
    floats = [leaf for leaf, floating in zip(leaves, is_float, strict=True) if floating]

    def found(floats: list[jax.Array], hidden: jax.Array) -> jax.Array:
        rest = iter(floats)
        filled = [
            next(rest) if floating else leaf
            for leaf, floating in zip(leaves, is_float, strict=True)
        ]
        return _logprobs(model, jax.tree.unflatten(structure, filled), hidden, targets)[0]

    def gradient(
        floats: list[jax.Array], hidden: jax.Array, cotangent: jax.Array
    ) -> tuple[list[jax.Array], jax.Array]:
        _, pull_back = jax.vjp(found, floats, hidden)
        found_bar: tuple[list[jax.Array], jax.Array] = pull_back(cotangent)
        return found_bar

    def zeros(
        floats: list[jax.Array], hidden: jax.Array, cotangent: jax.Array
    ) -> tuple[list[jax.Array], jax.Array]:
        return jax.tree.map(jnp.zeros_like, floats), jnp.zeros_like(hidden)

    floats_bar, hidden_bar = jax.lax.cond(
        targets[0] >= 0, gradient, zeros, floats, hidden, cotangents[0]
    )
    rest = iter(floats_bar)
    params_bar = jax.tree.unflatten(
        structure, [next(rest) if floating else None for floating in is_float]
    )
    return params_bar, hidden_bar, None


_logprobs_of_chunk.defvjp(_logprobs_of_chunk_forward, _logprobs_of_chunk_backward)
