"""Parameters of a pipelined model: from one tree a layer to arrays over the stages, and back.

Files, results and checkpoints have the first form, whatever the mesh; a pipelined forward takes the
second. No array is moved: each device keeps the parts that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flaxen.models.model import Params
from flaxen.sharding.placement import Placement


def stage_params(params: Params, placement: Placement | None) -> Params:
    """Joins the layers that have the same place in each stage.

    Args:
      params: a tree with one dict for each layer; each layer's arrays are on the devices of its
          stage alone (`models.layout.param_shardings`).
      placement: the mesh; with one stage, or without a mesh, there is nothing to join.

    Raises:
      ValueError: layers that would be joined are quantized in different ways.
    """
    if placement is None or placement.shape.pipeline == 1:
        return params
    num_stages = placement.shape.pipeline
    layers = params["layers"]
    size = len(layers) // num_stages
    for number in range(size):
        if len({jax.tree.structure(layer) for layer in layers[number::size]}) > 1:
            raise ValueError(
                f"layers {', '.join(map(str, range(number, len(layers), size)))} are at the same "
                "place in their pipeline stages, and their weights have different number formats: "
                "load them with --quantization int8, int4 or none, or use the axis tensor"
            )
    joined = tuple(
        jax.tree.map(lambda *arrays: _join(arrays, placement), *layers[number::size])
        for number in range(size)
    )
    return {**params, "layers": joined}


def stack_layers(layers: Sequence[Any], num_places: int) -> tuple[Any, ...]:
    """Within a jit: stacks the layers that have the same place in each of the stages.

    Args:
      layers: a tree for each layer of the model.
      num_places: the layers of one stage.
    """
    if len(layers) == num_places:
        return tuple(layers)
    return tuple(
        jax.tree.map(lambda *each: jnp.stack(each), *layers[number::num_places])
        for number in range(num_places)
    )


def unstage_params(params: Params, placement: Placement | None) -> Params:
    """The inverse of `stage_params`."""
    if placement is None or placement.shape.pipeline == 1:
        return params
    num_stages = placement.shape.pipeline
    layers = tuple(
        jax.tree.map(lambda each, stage=stage: _part(each, stage, placement), layer)
        for stage in range(num_stages)
        for layer in params["layers"]
    )
    return {**params, "layers": layers}


def in_trees(change: Callable[[Params], Params], tree: Any) -> Any:
    """Changes every tree of parameters in a tree, such as those in an optimizer's state."""

    def has_layers(node: Any) -> bool:
        return isinstance(node, dict) and "layers" in node

    return jax.tree.map(
        lambda node: change(node) if has_layers(node) else node, tree, is_leaf=has_layers
    )


def _join(arrays: tuple[jax.Array, ...], placement: Placement) -> jax.Array:
    """One array [S, ...] from those of the stages."""
    first = arrays[0]
    assert isinstance(first.sharding, NamedSharding)
    sharding = NamedSharding(placement.mesh, P("pipeline", *first.sharding.spec))
    parts = [shard.data[None] for array in arrays for shard in array.addressable_shards]
    shape = (len(arrays), *first.shape)
    return jax.make_array_from_single_device_arrays(shape, sharding, parts, dtype=first.dtype)


def _part(array: Any, stage: int, placement: Placement) -> Any:
    """A stage's part of an array [S, ...], on the devices of that stage, or on the host with it."""
    if isinstance(array, np.ndarray):
        return array[stage]
    assert isinstance(array.sharding, NamedSharding)
    own = placement.stage(stage)
    sharding = NamedSharding(own.mesh, P(*array.sharding.spec[1:]))
    devices = set(np.ravel(own.mesh.devices))
    parts = [shard.data[0] for shard in array.addressable_shards if shard.device in devices]
    return jax.make_array_from_single_device_arrays(
        array.shape[1:], sharding, parts, dtype=array.dtype
    )
