"""Parameters of a pipelined model: from one tree a layer to arrays over the stages, and back.

Files, results and checkpoints have the first form, whatever the mesh; a pipelined forward takes the
second. No array is moved: each device keeps the parts that it has.
"""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flaxen.models.model import Params
from flaxen.sharding.placement import Placement


def stage_params(params: Params, placement: Placement) -> Params:
    """Joins the layers that have the same place in each stage.

    Args:
      params: a tree with one dict for each layer; each layer's arrays are on the devices of its
          stage alone (`models.layout.param_shardings`).
      placement: the mesh.
    """
    num_stages = placement.shape.pipeline
    if num_stages == 1:
        return params
    layers = params["layers"]
    size = len(layers) // num_stages
    joined = tuple(
        jax.tree.map(lambda *arrays: _join(arrays, placement), *layers[number::size])
        for number in range(size)
    )
    return {**params, "layers": joined}


def unstage_params(params: Params, placement: Placement) -> Params:
    """The inverse of `stage_params`."""
    num_stages = placement.shape.pipeline
    if num_stages == 1:
        return params
    layers = tuple(
        jax.tree.map(lambda each, stage=stage: _part(each, stage, placement), layer)
        for stage in range(num_stages)
        for layer in params["layers"]
    )
    return {**params, "layers": layers}


def _join(arrays: tuple[jax.Array, ...], placement: Placement) -> jax.Array:
    """One array [S, ...] from those of the stages."""
    first = arrays[0]
    assert isinstance(first.sharding, NamedSharding)
    sharding = NamedSharding(placement.mesh, P("pipeline", *first.sharding.spec))
    parts = [shard.data[None] for array in arrays for shard in array.addressable_shards]
    shape = (len(arrays), *first.shape)
    return jax.make_array_from_single_device_arrays(shape, sharding, parts, dtype=first.dtype)


def _part(array: jax.Array, stage: int, placement: Placement) -> jax.Array:
    """A stage's part of an array [S, ...], on the devices of that stage."""
    assert isinstance(array.sharding, NamedSharding)
    own = placement.stage(stage)
    sharding = NamedSharding(own.mesh, P(*array.sharding.spec[1:]))
    devices = set(np.ravel(own.mesh.devices))
    parts = [shard.data[0] for shard in array.addressable_shards if shard.device in devices]
    return jax.make_array_from_single_device_arrays(
        array.shape[1:], sharding, parts, dtype=array.dtype
    )
