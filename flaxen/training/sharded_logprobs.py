"""Log-probabilities of packed batches on a mesh: tokens stay where they are, and so does the
vocabulary.

On one device the tokens of all rows are ordered together (`chunked_logprobs`). On a mesh each
device orders its own, because to order all would gather the hidden states; and no device has a
token's logits of the whole vocabulary. Deliberately does not know losses.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from flaxen.models.gathering import gathered, gathered_sharding
from flaxen.models.model import Model, Params, logprobs
from flaxen.models.param_spec import ParamSpec
from flaxen.models.params import is_spec
from flaxen.sharding.placement import Placement
from flaxen.training.layout import num_batch_parts

_Found = tuple[jax.Array, jax.Array]
# The axes of arrays with each device's own tokens: groups of rows, parts of rows, tokens.
_OWN = ("batch", "length", None)


def logprobs_on_mesh(
    model: Model, params: Params, hidden: jax.Array, targets: jax.Array, *, chunk: int
) -> _Found:
    """The log-probability of each target, and whether it was the likeliest token.

    Args:
      model: the model; it has a mesh.
      params: as `model.forward` takes them, not gathered.
      hidden: [B, T, D] from `model.forward`.
      targets: [B, T]; -1 for none. The mesh divides B and T, as `layout.check_sizes` says.
      chunk: tokens of a device whose logits are in memory at once.

    Returns:
      [B, T] float32, and [B, T] booleans; 0 and False where the target is -1.
    """
    placement = model.placement
    assert placement is not None
    parts, shape = (num_batch_parts(placement.shape), placement.shape.context), targets.shape
    hidden, targets = _by_device(hidden, parts, placement), _by_device(targets, parts, placement)
    num_tokens = targets.shape[2]
    size = min(chunk, num_tokens)
    num_chunks = -(-num_tokens // size)

    # Tokens with a target come first, so that chunks without any on any device can be skipped.
    order = jnp.argsort(targets < 0, axis=2, stable=True)
    place = jnp.argsort(order, axis=2, stable=True)

    def chunks(x: jax.Array, fill: int) -> jax.Array:  # [num_chunks, *parts, size, ...]
        index = order.reshape(*order.shape, *(1,) * (x.ndim - 3))
        ordered = _laid(jnp.take_along_axis(x, index, axis=2), placement)
        padding = [(0, 0)] * x.ndim
        padding[2] = (0, num_chunks * size - num_tokens)
        padded = jnp.pad(ordered, padding, constant_values=fill)
        return jnp.moveaxis(padded.reshape(*parts, num_chunks, size, *x.shape[3:]), 2, 0)

    own_params = _copies(model, params, parts, placement)

    @jax.checkpoint
    def one(_: None, each: _Found) -> tuple[None, _Found]:
        def some(hidden: jax.Array, targets: jax.Array) -> _Found:
            return _logprobs(model, placement, own_params, hidden, targets)

        return None, jax.lax.cond((each[1] >= 0).any(), some, _none, *each)

    _, found = jax.lax.scan(one, None, (chunks(hidden, 0), chunks(targets, -1)))

    def whole(x: jax.Array) -> jax.Array:
        tokens = jnp.moveaxis(x, 0, 2).reshape(*parts, num_chunks * size)
        return jnp.take_along_axis(_laid(tokens, placement), place, axis=2)

    chosen, is_best = (_by_row(whole(each), shape) for each in found)
    return chosen, is_best


def _by_device(x: jax.Array, parts: tuple[int, int], placement: Placement) -> jax.Array:
    """From [B, T, ...] to [*parts, B * T / parts, ...], each device's own tokens."""
    (B, T, *rest), (R, C) = x.shape, parts
    split = x.reshape(R, B // R, C, T // C, *rest).swapaxes(1, 2)
    return _laid(split.reshape(R, C, -1, *rest), placement)


def _by_row(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The inverse of `_by_device`, to the shape [B, T]."""
    (B, T), (R, C) = shape, x.shape[:2]
    return x.reshape(R, C, B // R, T // C).swapaxes(1, 2).reshape(B, T)


def _laid(x: jax.Array, placement: Placement, rest: tuple[str | None, ...] = ()) -> jax.Array:
    """Keeps each device's own tokens there."""
    axes = (*_OWN, *(rest or (None,) * (x.ndim - 3)))
    laid: jax.Array = jax.lax.with_sharding_constraint(x, placement.sharding(axes, x.shape))
    return laid


def _copies(model: Model, params: Params, parts: tuple[int, int], placement: Placement) -> Params:
    """The parameters, [*parts, ...]: the copy that each device has anyway, by an axis of its own.

    So a device sums the gradient of its own copy over all chunks, and the devices add these once;
    the gradient of an array that all share would be added over the devices in each chunk.
    """

    def copy(spec: ParamSpec, leaf: Any) -> Any:
        def each(x: jax.Array) -> jax.Array:
            return jnp.broadcast_to(x, (*parts, *x.shape))

        if not isinstance(leaf, jax.Array):  # with adapters, of which the unembedding has none
            return jax.tree.map(each, leaf)
        own = gathered_sharding(spec, placement).spec
        first = placement.spec(_OWN[:2], parts)
        sharding = NamedSharding(placement.mesh, PartitionSpec(*first, *own))
        return jax.lax.with_sharding_constraint(each(leaf), sharding)

    return jax.tree.map(copy, model.param_specs, gathered(model, params), is_leaf=is_spec)


def _logprobs(
    model: Model, placement: Placement, own_params: Params, hidden: jax.Array, targets: jax.Array
) -> _Found:
    """The log-probabilities of one chunk of each device, [*parts, size]."""
    logits = jax.vmap(jax.vmap(model.unembed))(own_params, hidden)
    logits = _laid(logits, placement, ("vocab",))
    # Looking a column up would gather them all; a sum of one and zeros is added over the devices.
    columns = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    is_target = columns == targets[..., None]
    chosen = jnp.where(is_target, logprobs(logits, model.backend), 0).sum(axis=-1)
    best = jax.lax.stop_gradient(logits)
    is_best = jnp.where(is_target, best, -jnp.inf).max(axis=-1) >= best.max(axis=-1)
    return chosen, is_best & (targets >= 0)


def _none(hidden: jax.Array, targets: jax.Array) -> _Found:
    return jnp.zeros(targets.shape, jnp.float32), jnp.zeros(targets.shape, bool)
