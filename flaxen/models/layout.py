"""Where a model's parameters and adapters are on a mesh, by the logical axes of their specs.

Deliberately does not know files, engines, training.
"""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.sharding import NamedSharding

from flaxen.models.adapters import matrices
from flaxen.models.model import Model, ParamSpec
from flaxen.models.params import is_spec
from flaxen.sharding.placement import Placement


def param_shardings(specs: Any, placement: Placement) -> Any:
    """The sharding of each parameter, in a tree like the specs.

    Args:
      specs: a model's param_specs, or a part of them.
      placement: the mesh.
    """
    return jax.tree.map(lambda spec: param_sharding(spec, placement), specs, is_leaf=is_spec)


def param_sharding(spec: ParamSpec, placement: Placement) -> NamedSharding:
    """Where one plain parameter is."""
    return placement.sharding(spec.axes, spec.shape, head_dim=spec.head_dim)


def vocab_placement(model: Model) -> Placement | None:
    """The mesh over which the logits are divided; None if each device has all of them."""
    if model.placement is None:
        return None
    is_divided = model.placement.spec(("vocab",), (model.vocab_size,))[0] is not None
    return model.placement if is_divided else None


def adapter_shardings(model: Model, placement: Placement) -> tuple[Any, ...]:
    """Where a stack of adapters is: one dict for each layer, from each target to its a and b.

    `a` [n, I, R] is divided along its inputs and `b` [n, R, O] along its outputs, as the weight
    that they are beside, so that an adapter adds no sum over devices to the weight's own.
    """

    def of(spec: ParamSpec) -> dict[str, NamedSharding]:
        assert spec.matrix is not None
        return {
            "a": _divided(spec, spec.matrix.inputs, 1, placement),
            "b": _divided(spec, spec.matrix.outputs, 2, placement),
        }

    return tuple({name: of(spec) for name, spec in layer.items()} for layer in matrices(model))


def _divided(
    spec: ParamSpec, axes: tuple[int, ...], place: int, placement: Placement
) -> NamedSharding:
    """The sharding of an array of three axes, of which one is these axes of a parameter in one."""
    size = math.prod(spec.shape[axis] for axis in axes)
    rest = size // spec.shape[axes[0]]  # numbers that belong to one of the first axis
    names: list[str | None] = [None, None, None]
    sizes = [1, 1, 1]
    names[place], sizes[place] = spec.axes[axes[0]], size
    if names[place] not in ("heads", "kv_heads"):
        sizes[place] = spec.shape[axes[0]]
    return placement.sharding(names, sizes, head_dim=spec.head_dim * rest)
