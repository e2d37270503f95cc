"""The arrays of one layer's cache, with the number of its cache group: pages or states.

Knows: how they begin, on one device or a mesh, and the numbers that a key takes in them.
Deliberately does not know: who fills them, nor which sequence owns a page.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from flaxen.attention_kernels.paged_attention import Pages, empty_cache, page_axes
from flaxen.kernels.backend import Backend
from flaxen.models.cache import CacheSpec, Paged, State, head_sizes, num_kv_heads
from flaxen.models.sharded_attention import num_page_heads
from flaxen.sharding.placement import Placement


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class LayerPages:
    """The pages of one layer, and the cache group whose page tables name them."""

    pages: Pages
    group: int = field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class LayerStates:
    """The states of one layer, a slot for each sequence, and its cache group."""

    states: tuple[jax.Array, ...]  # float32 [slots, ...], one for each shape of the cache spec
    group: int = field(metadata={"static": True})


LayerCache = LayerPages | LayerStates


def empty_layer(
    spec: CacheSpec,
    num_pages: int,
    page_size: int,
    dtype: jnp.dtype,
    *,
    group: int = 0,
    backend: Backend,
    placement: Placement | None = None,
) -> LayerCache:
    """Makes the empty cache of one layer, as `attention_impls.paged` takes it.

    Args:
      spec: the layer's.
      num_pages: how many pages, or slots of a State.
      page_size: tokens.
      dtype: of keys and values.
      group: which of the batches has the layer's page table.
      backend: what will read them.
      placement: the mesh that they are laid over, within a jit; None is one device.

    Raises:
      ValueError: a size or dtype that the backend does not have.
    """
    if isinstance(spec, State):
        states = tuple(jnp.zeros((num_pages, *shape), jnp.float32) for shape in spec.shapes)
        if placement is not None:
            states = tuple(_laid(each, (None,) * each.ndim, placement) for each in states)
        return LayerStates(states=states, group=group)
    num_heads, sizes = num_page_heads(num_kv_heads(spec), placement), head_sizes(spec)
    pages = empty_cache(
        *(num_pages, page_size, num_heads, sizes[0], dtype), value_dim=sizes[1], backend=backend
    )
    if placement is not None:
        axes = page_axes(*sizes, backend=backend)
        pages = jax.tree.map(lambda each: _laid(each, axes, placement), pages)
    return LayerPages(pages=pages, group=group)


def stored_head_dim(spec: Paged, page_size: int, dtype: jnp.dtype, *, backend: Backend) -> int:
    """The numbers that a head's key takes in the pages, with its value: some kernels pad them.

    Args:
      spec: the layer's.
      page_size: tokens.
      dtype: of keys and values.
      backend: what will read the pages.

    Raises:
      ValueError: as in `empty_layer`.
    """
    head_dim, value_dim = head_sizes(spec)
    make = functools.partial(
        empty_cache, 1, page_size, 1, head_dim, dtype, value_dim=value_dim, backend=backend
    )
    num_bytes: int = sum(
        each.size * each.dtype.itemsize for each in jax.tree.leaves(jax.eval_shape(make))
    )
    return -(-num_bytes // (page_size * jnp.dtype(dtype).itemsize))


def _laid(x: jax.Array, axes: tuple[str | None, ...], placement: Placement) -> jax.Array:
    """An array of the pages on a mesh, with one for each pipeline stage if there are several."""
    if (stages := placement.shape.pipeline) > 1:
        x, axes = jnp.broadcast_to(x, (stages, *x.shape)), ("stages", *axes)
    laid: jax.Array = jax.lax.with_sharding_constraint(x, placement.sharding(axes, x.shape))
    return laid
