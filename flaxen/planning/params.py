"""The shapes of a model's parameters on a mesh, and what one device has of them.

Deliberately does not know steps, nor hardware.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from flaxen.models.layout import param_sharding
from flaxen.models.model import Model, Params, ParamSpec
from flaxen.models.params import is_spec


def param_shapes(specs: Any, model: Model, dtype: jnp.dtype) -> Params:
    """The shapes, dtypes and places of parameters, none of which is made.

    Args:
      specs: the model's param_specs, or a part of them.
      model: for its mesh.
      dtype: of all of them.
    """
    placement = model.placement
    assert placement is not None, "a plan has a mesh, if only of one device"
    return jax.tree.map(
        lambda spec: jax.ShapeDtypeStruct(
            spec.shape, dtype, sharding=param_sharding(spec, placement)
        ),
        specs,
        is_leaf=is_spec,
    )


def device_bytes(tree: Any) -> int:
    """The bytes that one device has of a tree of shapes with their places, or of arrays."""
    return sum(map(_num_bytes, jax.tree.leaves(tree)))


def _num_bytes(leaf: Any) -> int:
    bits = jnp.finfo(leaf.dtype).bits if _is_float(leaf) else _num_bits(leaf.dtype)
    return -(-_num_values(leaf) * bits // 8)


def _is_float(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def _num_bits(dtype: jnp.dtype) -> int:
    is_integer = jnp.issubdtype(dtype, jnp.integer)  # of which int4 has half a byte
    return int(jnp.iinfo(dtype).bits) if is_integer else 8 * dtype.itemsize


def _num_values(leaf: Any) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape))


@dataclass(frozen=True, kw_only=True)
class ParamCost:
    """What a step does with parameters, on one device."""

    read_bytes: int  # of all but tables whose rows are only looked up
    layer_values: int  # numbers that every token is multiplied with
    unembed_values: int  # numbers that only tokens which sample are multiplied with


def param_cost(specs: Any, shapes: Params) -> ParamCost:
    """Counts the parameters of one device.

    Args:
      specs: the model's param_specs.
      shapes: those of `param_shapes`, or quantized.
    """
    read_bytes = layer_values = unembed_values = 0
    for spec, held in _pairs(specs, shapes):
        if spec.lookup_only:
            continue
        read_bytes += device_bytes(held)
        values = max(map(_num_values, jax.tree.leaves(held)))
        if spec.role in ("matrix", "experts"):
            layer_values += values
        elif spec.is_multiplied:
            unembed_values += values
    return ParamCost(
        read_bytes=read_bytes, layer_values=layer_values, unembed_values=unembed_values
    )


def num_query_heads(specs: Any) -> int:
    """N, by the parameters' axes; 0 if no axis is named so."""
    found = [
        size // spec.head_dim
        for spec in jax.tree.leaves(specs, is_leaf=is_spec)
        for axis, size in zip(spec.axes, spec.shape, strict=True)
        if axis == "heads"
    ]
    return max(found, default=0)


def _pairs(specs: Any, shapes: Params) -> Iterator[tuple[ParamSpec, Any]]:
    leaves, tree = jax.tree.flatten(specs, is_leaf=is_spec)
    structure: Any = tree  # JAX does not annotate its class
    yield from zip(leaves, structure.flatten_up_to(shapes), strict=True)
