"""The shapes of a model's parameters on a mesh, and what one device has of them.

Deliberately does not know steps, nor hardware.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from flaxen.kernels.linear import QuantizedLinear
from flaxen.models.adapters import matrix_shape
from flaxen.models.layout import param_sharding, stack_shardings, weight_shardings
from flaxen.models.model import Model, Params
from flaxen.models.param_spec import ParamSpec
from flaxen.models.params import is_spec
from flaxen.sharding.placement import Placement
from flaxen.tensors.packing.arrays import array_dtype, array_scale_dtype
from flaxen.tensors.packing.layout import Layout
from flaxen.tensors.packing.pack import Quantization, quantized_layout


def param_shapes(
    model: Model, dtype: jnp.dtype, layouts: Sequence[Layout | None] | None = None
) -> Params:
    """The shapes, dtypes and places of a model's parameters, none of which is made.

    Args:
      model: the model on its mesh.
      dtype: of those that are not quantized.
      layouts: the layout of each quantized parameter, in the order of the leaves; None quantizes
        none.

    Raises:
      ValueError: the mesh would cut groups of a quantized weight.
    """
    placement = model.placement
    assert placement is not None, "a plan has a mesh, if only of one device"
    specs, tree = jax.tree.flatten(model.param_specs, is_leaf=is_spec)
    leaves = [
        _quantized(spec, layout, placement)
        if layout is not None
        else jax.ShapeDtypeStruct(spec.shape, dtype, sharding=param_sharding(spec, placement))
        for spec, layout in zip(specs, layouts or [None] * len(specs), strict=True)
    ]
    return jax.tree.unflatten(tree, leaves)


def requested_layouts(model: Model, quantization: Quantization) -> list[Layout | None]:
    """The layouts of weights that no file has yet: those that are asked for, or none."""
    return [
        quantized_layout(
            quantization,
            spec.shape[1] if spec.is_stack else matrix_shape(spec)[0],
            backend=model.backend,
            is_table=spec.role == "table",
        )
        if quantization not in ("auto", "none") and is_quantized(spec)
        else None
        for spec in jax.tree.leaves(model.param_specs, is_leaf=is_spec)
    ]


def is_quantized(spec: ParamSpec) -> bool:
    """Whether a parameter is quantized where weights are."""
    return (spec.matrix is not None or spec.is_stack) and not spec.is_wide


def _quantized_stack(spec: ParamSpec, layout: Layout, placement: Placement) -> QuantizedLinear:
    """The arrays of the quantized weights of experts, as `weights.stacks` lays them."""
    num_experts, num_inputs, num_outputs = spec.shape
    where = stack_shardings(param_sharding(spec, placement))
    of_groups = (num_experts, num_inputs // layout.group, num_outputs)
    scales = jax.ShapeDtypeStruct(of_groups, array_scale_dtype(layout), sharding=where.scales)
    return QuantizedLinear(
        data=jax.ShapeDtypeStruct(spec.shape, array_dtype(layout), sharding=where.data),
        scales=scales,
        mins=scales if layout.has_mins else None,
        is_e2m1=layout.format == "float4",
    )


def _quantized(spec: ParamSpec, layout: Layout, placement: Placement) -> Any:
    """The arrays of a quantized weight; of one with several layers, one weight for each."""
    assert layout.scale_dtype is not None
    if spec.is_stack:
        return _quantized_stack(spec, layout, placement)
    num_inputs, num_outputs = matrix_shape(spec)
    assert spec.matrix is not None
    num_groups = num_inputs // layout.group
    places = weight_shardings(spec, param_sharding(spec, placement), num_groups)
    assert places is not None
    of_groups = (num_groups, num_outputs)
    numbers = array_dtype(layout)
    scales = jax.ShapeDtypeStruct(of_groups, array_scale_dtype(layout), sharding=places.scales)
    weight = replace(
        places,
        data=jax.ShapeDtypeStruct((num_inputs, num_outputs), numbers, sharding=places.data),
        scales=scales,
        mins=scales if layout.has_mins else None,
        is_e2m1=layout.format == "float4",
        placement=placement,
        divided=(*places.data.spec, None, None)[:2],
    )
    if spec.matrix.layers is None:
        return weight
    return dict.fromkeys(range(spec.shape[spec.matrix.layers]), weight)


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
    """The work of a step with the parameters, on one device."""

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
        values = round(max(map(_num_values, jax.tree.leaves(held))) * spec.share)
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
