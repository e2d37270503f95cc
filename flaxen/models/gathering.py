"""Fully sharded parameters where a forward of training uses them: gathered over the axis fsdp.

A device keeps its part of each parameter, and has the whole only while it computes with it. The
gradient goes back as each device's part, summed over the devices (reduce-scatter). Deliberately
does not know what is trained.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from flaxen.kernels.linear.lora import LoraWeight
from flaxen.kernels.linear.quantized import QuantizedLinear
from flaxen.models.layout import factor_shardings, param_sharding
from flaxen.models.model import Model, Params
from flaxen.models.param_spec import ParamSpec
from flaxen.models.params import is_spec
from flaxen.sharding.placement import Placement

AXIS = "fsdp"


def gathered(model: Model, params: Params) -> Params:
    """The parameters as each device multiplies with them, within a jit.

    Args:
      model: the model; without a mesh, or with fsdp=1, nothing is gathered.
      params: a tree like its param_specs, or one of `with_adapters`.
    """
    placement = model.placement
    if placement is None or not is_divided(model):
        return params
    one = functools.partial(_gather_param, placement)
    return jax.tree.map(one, model.param_specs, params, is_leaf=is_spec)


def is_divided(model: Model) -> bool:
    """Whether the parameters of a model are fully sharded."""
    return model.placement is not None and model.placement.shape.fsdp > 1


def keeps_what_is_not_gathered(primitive: Any, *_: Any, **__: Any) -> bool:
    """A policy of jax.checkpoint: the backward pass gathers parameters again, in place of keeping
    all of them whole since the forward pass.
    """
    return bool(primitive.name != "sharding_constraint")


def gathered_sharding(spec: ParamSpec, placement: Placement) -> NamedSharding:
    """The sharding of a parameter while it is used: not divided over fsdp."""
    return _whole(param_sharding(spec, placement))


def _gather_param(placement: Placement, spec: ParamSpec, leaf: Any) -> Any:
    if isinstance(leaf, dict):  # layers that are stacked in one array, with adapters
        return {index: _gather_param(placement, spec, each) for index, each in leaf.items()}
    if isinstance(leaf, QuantizedLinear):
        return _gather_quantized(leaf)
    if not isinstance(leaf, LoraWeight):
        return _gather(leaf, param_sharding(spec, placement), is_table=spec.role == "table")
    factors = factor_shardings(spec, placement)
    return dataclasses.replace(
        leaf,
        base=_gather_param(placement, spec, leaf.base),
        a=_gather(leaf.a, factors["a"]),
        b=_gather(leaf.b, factors["b"]),
    )


def _gather(x: jax.Array, kept: NamedSharding, *, is_table: bool = False) -> jax.Array:
    """Gathers an array over fsdp.

    Args:
      x: the array.
      kept: where it is kept, and its gradient goes.
      is_table: whether rows are looked up in it.
    """

    def whole(x: jax.Array) -> jax.Array:
        laid: jax.Array = jax.lax.with_sharding_constraint(x, _whole(kept))
        return laid

    if not jnp.issubdtype(x.dtype, jnp.floating):  # it has no gradient
        return whole(x)

    gather = jax.custom_vjp(whole)

    def forward(x: jax.Array) -> tuple[jax.Array, None]:
        return whole(x), None

    def backward(_: None, gradient: jax.Array) -> tuple[jax.Array]:
        if is_table:
            # Else XLA divides the hidden states' gradient by columns before the rows are added up:
            # all of it would go to every device.
            gradient = whole(gradient)
        return (jax.lax.with_sharding_constraint(gradient, kept),)

    gather.defvjp(forward, backward)
    found: jax.Array = gather(x)
    return found


def _gather_quantized(weight: QuantizedLinear) -> QuantizedLinear:
    """Gathers the numbers and scales of a frozen weight, which has no gradient."""
    placement = weight.placement
    assert placement is not None
    inputs, outputs = (_without(names) for names in weight.divided)

    def whole(x: jax.Array) -> jax.Array:
        by_stage = ("pipeline",) if x.ndim == 3 else ()
        spec = PartitionSpec(*by_stage, None if x.shape[-2] == 1 else inputs, outputs)
        laid: jax.Array = jax.lax.with_sharding_constraint(x, NamedSharding(placement.mesh, spec))
        return laid

    found: QuantizedLinear = jax.tree.map(whole, dataclasses.replace(weight, order=None))
    return dataclasses.replace(found, order=weight.order, divided=(inputs, outputs))


def _whole(kept: NamedSharding) -> NamedSharding:
    """The same sharding, but not divided over fsdp."""
    return NamedSharding(kept.mesh, PartitionSpec(*map(_without, kept.spec)))


def _without(names: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
    each = (names,) if isinstance(names, str) else names or ()
    return tuple(name for name in each if name != AXIS) or None
