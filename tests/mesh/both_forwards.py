"""A model's two forwards on a mesh or one device: served in chunks, and trained on packed rows."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from flaxen.execution.step import empty_cache, page_shardings
from flaxen.kernels.paged_batch import PagedBatch
from flaxen.models import attention_impls
from flaxen.models.model import Model
from tests.scheduling.groups import groups

_PAGE_SIZE = 16  # tokens
# The programs run once, for a few tokens: most of the time would go into making them faster.
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def served(model: Model, params: Any, ids: jax.Array) -> jax.Array:
    """The logits of a sequence [T] in two chunks of equal length, over its cache."""
    num_pages, half = -(-ids.size // _PAGE_SIZE), ids.size // 2
    own = groups(model.cache_specs, num_pages)

    def make() -> Any:
        return empty_cache(model, own, _PAGE_SIZE, jnp.dtype("float32"))

    cache = _jit(make, out_shardings=page_shardings(model))()

    @_jit
    def step(params: Any, ids: jax.Array, positions: jax.Array, batch: Any, cache: Any) -> Any:
        attend = attention_impls.paged((batch,) * len(own), model.backend, model.placement)
        hidden, cache = model.forward(params, ids, positions, attend, cache)
        return model.unembed(params, hidden), cache

    outs = []
    for first in (0, half):
        last = first + half
        batch = PagedBatch(
            jnp.asarray([last], jnp.int32),
            jnp.arange(num_pages, dtype=jnp.int32)[None],
            jnp.asarray([0, half], jnp.int32),
        )
        logits, cache = step(params, ids[first:last], jnp.arange(first, last), batch, cache)
        outs.append(logits)
    return jnp.concatenate(outs)


def trained(model: Model, params: Any, ids: jax.Array, segments: jax.Array) -> Any:
    """A loss over packed rows [B, T], and its gradient."""
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)

    def loss(params: Any) -> jax.Array:
        attend = attention_impls.causal(segments, model.backend, model.placement)
        cache = (None,) * len(model.cache_specs)
        hidden, _ = model.forward(params, ids, positions, attend, cache)
        return jnp.mean(jnp.sin(model.unembed(params, hidden)))

    return _jit(jax.value_and_grad(loss))(params)
