"""The shardings of a model's parameters and adapters on a mesh, by the logical axes of their specs.

Deliberately does not know files, engines, training.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from flaxen.kernels.linear import QuantizedLinear
from flaxen.models.adapters import matrices
from flaxen.models.cache import CacheSpec, Latent, State
from flaxen.models.layer_cache import stored_head_dim
from flaxen.models.model import Model, Params
from flaxen.models.param_spec import ParamSpec
from flaxen.models.params import is_spec
from flaxen.models.sharded_attention import num_page_heads
from flaxen.sharding.placement import Placement


def param_shardings(specs: Any, placement: Placement) -> Any:
    """The sharding of each parameter, in a tree like the specs.

    With pipeline stages, the arrays of a layer are on the devices of its stage alone, as
    `staging.stage_params` takes them.

    Args:
      specs: a model's param_specs, or a part of them.
      placement: the mesh.

    Raises:
      ValueError: an axis of a parameter has a name for which there is no rule.
    """

    def on(own: Placement, part: Any) -> Any:
        one = functools.partial(_named_sharding, own)
        return jax.tree_util.tree_map_with_path(one, part, is_leaf=is_spec)

    num_stages = placement.shape.pipeline
    if num_stages == 1 or _is_staged(specs):
        return on(placement, specs)
    size = len(specs["layers"]) // num_stages
    layers = tuple(
        on(placement.stage(number // size), layer) for number, layer in enumerate(specs["layers"])
    )
    rest = {name: on(placement, each) for name, each in specs.items() if name != "layers"}
    return {**rest, "layers": layers}


def _named_sharding(placement: Placement, path: Any, spec: ParamSpec) -> NamedSharding:
    try:
        return param_sharding(spec, placement)
    except ValueError as error:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        raise ValueError(
            f"the parameter {name} can't be divided over a mesh: {error}. flaxen.from_nnx and the "
            "other bridges take sharding=[(pattern, axes), ...], which goes before the names that "
            "a module has"
        ) from None


def lay_params(specs: Any, params: Params, placement: Placement) -> Params:
    """Lays parameters over a mesh, plain or quantized, from wherever they are.

    Args:
      specs: a model's param_specs.
      params: its parameters.
      placement: the mesh.
    """

    def one(spec: ParamSpec, sharding: NamedSharding, leaf: Any) -> Any:
        if isinstance(leaf, dict):  # the layers of a stacked parameter
            return {index: one(spec, sharding, each) for index, each in leaf.items()}
        if not isinstance(leaf, QuantizedLinear):
            return jax.device_put(leaf, sharding)
        if spec.is_stack:
            of_stack = stack_shardings(sharding)
            mins = None if leaf.mins is None else of_stack.mins
            own = replace(leaf, data=of_stack.data, scales=of_stack.scales, mins=mins)
            return jax.device_put(leaf, own)
        where = weight_shardings(spec, sharding, leaf.scales.shape[0])
        assert where is not None
        mins = None if leaf.mins is None else where.mins
        order = None if leaf.order is None else placement.replicated
        laid = jax.device_put(leaf, replace(where, mins=mins, order=order, zero=leaf.zero))
        return replace(laid, placement=placement, divided=(*where.data.spec, None, None)[:2])

    found: Params = jax.tree.map(
        one, specs, param_shardings(specs, placement), params, is_leaf=is_spec
    )
    return found


def _is_staged(specs: Any) -> bool:
    """Whether arrays have a leading axis over the stages (`models.pipeline`)."""
    leaves = jax.tree.leaves(specs, is_leaf=is_spec)
    return any(spec.axes[:1] == ("stages",) for spec in leaves)


def check_layout(specs: Any, placement: Placement) -> None:
    """Refuses a model whose heads or MLP can't be divided over the tensor axis in equal parts.

    Raises:
      ValueError: they can't be divided; the message names the sizes that fit.
    """
    sizes = {
        (axis, size if axis == "mlp" else size // spec.head_dim)
        for spec in jax.tree.leaves(specs, is_leaf=is_spec)
        for axis, size in zip(spec.axes, spec.shape, strict=True)
        if axis in _DIVIDED
    }
    parts = placement.shape.tensor
    wrong = sorted((axis, num) for axis, num in sizes if not _fits(axis, num, parts))
    if wrong:
        axis, num = wrong[0]
        fit = [n for n in range(1, 257) if all(_fits(*each, n) for each in sizes)]
        raise ValueError(
            f"the model's {num} {_DIVIDED[axis]} can't be divided over tensor={parts} in equal "
            f"parts: use a tensor axis of {', '.join(map(str, fit))}"
        )


_DIVIDED = {"heads": "query heads", "kv_heads": "KV heads", "mlp": "rows of the MLP"}


def _fits(axis: str, num: int, parts: int) -> bool:
    """Whether each part gets equally many, or of few KV heads one that others have too."""
    return num % parts == 0 or (axis == "kv_heads" and parts % num == 0)


def param_sharding(spec: ParamSpec, placement: Placement) -> NamedSharding:
    """The sharding of one plain parameter."""
    return placement.sharding(spec.axes, spec.shape, head_dim=spec.head_dim)


def weight_shardings(
    spec: ParamSpec, sharding: NamedSharding | None, num_groups: int
) -> QuantizedLinear | None:
    """The shardings of the arrays of a quantized weight [I, O], as its leaves; None without a mesh.

    Args:
      spec: of the plain parameter, which is divided in the same way.
      sharding: the plain parameter's.
      num_groups: the groups of inputs that have scales of their own.

    Raises:
      ValueError: groups would be cut.
    """
    if sharding is None:
        return None
    assert spec.matrix is not None
    mesh, parts = sharding.mesh, sharding.spec
    inputs, outputs = (_of_all(parts, axes) for axes in (spec.matrix.inputs, spec.matrix.outputs))
    count = math.prod(mesh.shape[name] for name in inputs)
    if num_groups % count and num_groups > 1:
        raise ValueError(
            f"its inputs are {num_groups} groups with scales of their own, which {count} devices "
            f"along {', '.join(inputs)} can't share in equal parts: use fewer devices there, "
            "or load it with quantization int8 or none"
        )
    of_groups = PartitionSpec(inputs if num_groups > 1 else (), outputs)
    by_group = NamedSharding(mesh, of_groups)
    data = NamedSharding(mesh, PartitionSpec(inputs, outputs))
    return QuantizedLinear(data=data, scales=by_group, mins=by_group)


def stack_shardings(sharding: NamedSharding) -> QuantizedLinear:
    """The shardings of the arrays of quantized experts [E, I, O], as its leaves.

    They are divided as plain experts are, but each device has the scales of all groups of inputs.

    Args:
      sharding: of the plain experts.
    """
    experts, _, outputs = (*sharding.spec, None, None, None)[:3]
    groups = NamedSharding(sharding.mesh, PartitionSpec(experts, None, outputs))
    return QuantizedLinear(data=sharding, scales=groups, mins=groups)


def _of_all(parts: PartitionSpec, axes: tuple[int, ...]) -> tuple[str, ...]:
    """The mesh's axes that divide several axes as one: those of the first, if no other has any."""
    first, *others = (parts[axis] for axis in axes)
    if first is None or any(each is not None for each in others):
        return ()
    return (first,) if isinstance(first, str) else tuple(first)


def device_specs(model: Model) -> tuple[CacheSpec, ...]:
    """The cache of each layer as one device of the model's mesh has it: its own KV heads, and all
    states.

    Raises:
      ValueError: heads can't be divided.
    """
    specs = model.cache_specs
    if model.placement is None:
        return specs
    parts = model.placement.shape.tensor
    return tuple(
        each  # every device has all latents
        if isinstance(each, Latent | State)
        else replace(each, num_kv_heads=num_page_heads(each.num_kv_heads, model.placement) // parts)
        for each in specs
    )


def page_specs(model: Model, page_size: int, dtype: jnp.dtype) -> tuple[CacheSpec, ...]:
    """Like `device_specs`, with heads as large as they lie in the pages, to count their bytes.

    Args:
      model: the model, made for its backend and mesh.
      page_size: tokens.
      dtype: of keys and values.

    Raises:
      ValueError: as in `device_specs`; or the backend has no such pages.
    """

    def stored(spec: CacheSpec) -> CacheSpec:
        if isinstance(spec, State):
            return spec
        size = stored_head_dim(spec, page_size, dtype, backend=model.backend)
        if isinstance(spec, Latent):
            return replace(spec, rank=size - spec.rope_dim)
        return replace(spec, head_dim=-(-size // 2), value_dim=size // 2)

    return tuple(stored(each) for each in device_specs(model))


def vocab_placement(model: Model) -> Placement | None:
    """The mesh over which the logits are divided; None if each device has all of them."""
    if model.placement is None:
        return None
    is_divided = model.placement.spec(("vocab",), (model.vocab_size,))[0] is not None
    return model.placement if is_divided else None


def adapter_shardings(model: Model, placement: Placement) -> tuple[Any, ...]:
    """The shardings of a stack of adapters: a dict for each layer, from each target to its a and b.

    `a` [n, I, R] is divided along its inputs and `b` [n, R, O] along its outputs, as the weight
    that they are beside, so that an adapter adds no sum over devices to the weight's own.
    """

    return tuple(
        {name: factor_shardings(spec, placement) for name, spec in layer.items()}
        for layer in matrices(model)
    )


def factor_shardings(spec: ParamSpec, placement: Placement) -> dict[str, NamedSharding]:
    """The shardings of the factors a and b in a stack of adapters of one weight."""
    assert spec.matrix is not None
    return {
        "a": _divided(spec, spec.matrix.inputs, 1, placement),
        "b": _divided(spec, spec.matrix.outputs, 2, placement),
    }


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
