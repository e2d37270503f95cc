"""Puts arrays on a mesh and gets them back, also where it spans processes.

Deliberately does not know the rules, nor what the arrays mean.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding


def put(tree: Any, places: Any) -> Any:
    """Like `jax.device_put`. Where a place is on several processes, all call this with the same
    values, and each lays the parts of its own devices; nothing is sent.

    Args:
      tree: arrays of JAX or NumPy.
      places: a sharding for all of them, or a tree like theirs.
    """
    if isinstance(places, Sharding):
        return jax.tree.map(lambda leaf: _put(leaf, places), tree)
    return jax.tree.map(_put, tree, places)


def _put(leaf: Any, place: Sharding) -> jax.Array:
    is_everywhere = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
    laid: jax.Array
    if place.is_fully_addressable or is_everywhere:
        laid = jax.device_put(leaf, place)
    elif isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = put(jax.random.key_data(leaf), place)
        laid = jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    else:
        whole = np.asarray(leaf)
        laid = jax.make_array_from_callback(whole.shape, place, lambda index: whole[index])
    return laid


def gather(tree: Any, *, wanted: bool) -> Any:
    """The whole arrays, from a mesh that spans processes; all of these call it at the same time.

    One array after another is put on every device, so that no device has more than one whole.

    Args:
      tree: arrays over several processes. Others, and all leaves that are not arrays, stay.
      wanted: whether this process wants them; without that it gets what it gave.
    """

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return leaf
        assert isinstance(leaf.sharding, NamedSharding), "an array over processes has a mesh"
        whole = NamedSharding(leaf.sharding.mesh, PartitionSpec())
        everywhere = jax.jit(_same, out_shardings=whole)(leaf)
        return np.asarray(everywhere) if wanted else leaf

    return jax.tree.map(one, tree)


def _same(array: jax.Array) -> jax.Array:
    """One function for all arrays, so that arrays of one shape have one compiled program."""
    return array
