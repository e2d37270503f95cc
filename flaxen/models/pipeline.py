"""A model in pipeline stages: each has some of the layers, and hands its output to the next.

The stages are an axis of the mesh and run one program (SPMD): in each turn every stage computes
its layers for another microbatch, GPipe's schedule (https://arxiv.org/abs/1811.06965). Gradients
come from JAX. Deliberately does not know how layers or attention compute, nor files.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from flaxen.kernels.backend import Backend
from flaxen.kernels.linear.lora import LoraWeight
from flaxen.models.attention_impls import Staged, join_rows, split_rows
from flaxen.models.model import Cache, InputEmbeds, Model, Params
from flaxen.models.param_spec import ParamSpec
from flaxen.models.params import is_spec
from flaxen.sharding.placement import Placement

_PER_STAGE = 4  # microbatches for each stage, if the rows allow: a fifth of the turns is idle


def pipelined(model: Model) -> Model:
    """The model with its layers in as many stages as its mesh has.

    Its parameters are those of `stage_params`, and it has the cache specs of one stage's layers.

    Raises:
      ValueError: the model's forward is in one piece, or its stages would not be equal.
    """
    assert model.placement is not None
    num_stages = model.placement.shape.pipeline
    if num_stages == 1:
        return model
    if model.in_layers is None:
        raise ValueError(
            "the forward of a definition is in one piece, so that it can't be divided into "
            f"pipeline={num_stages} stages: use the axes tensor, data and fsdp"
        )
    num_layers = len(model.cache_specs)
    if num_layers % num_stages:
        fit = [n for n in range(1, num_layers + 1) if num_layers % n == 0]
        raise ValueError(
            f"the model's {num_layers} layers can't be divided into pipeline={num_stages} equal "
            f"stages: use a pipeline axis of {', '.join(map(str, fit))}"
        )
    specs = model.param_specs
    kinds = list(zip(model.cache_specs, specs["layers"], strict=True))
    size = num_layers // num_stages
    if any(kinds[number] != kinds[number % size] for number in range(num_layers)):
        raise ValueError(
            f"in pipeline={num_stages} stages the same layer of each stage must be alike, and "
            "this model's layers differ, in their windows for example: use fewer stages, or "
            "the axis tensor"
        )
    staged = tuple(
        jax.tree.map(functools.partial(_staged, num_stages), each, is_leaf=is_spec)
        for each in specs["layers"][:size]
    )
    return replace(
        model,
        forward_on=functools.partial(_forward, model),
        forward_embeds_on=functools.partial(_forward, model),
        param_specs={**specs, "layers": staged},
        cache_specs=model.cache_specs[:size],
        in_layers=None,
        num_experts=(),  # the stages do not return their routing
        routed_forward_on=None,
        num_stages=num_stages,
        unstaged=model,
    )


def _staged(num_stages: int, spec: ParamSpec) -> ParamSpec:
    """The spec of a parameter with a leading axis over the stages."""
    matrix = spec.matrix
    if matrix is not None:
        inputs, outputs = (
            tuple(axis + 1 for axis in axes) for axes in (matrix.inputs, matrix.outputs)
        )
        matrix = replace(matrix, inputs=inputs, outputs=outputs, layers=0)
    return replace(
        spec,
        shape=(num_stages, *spec.shape),
        axes=("stages", *spec.axes),
        matrix=matrix,
        is_stack=False,  # of experts alone: stages have plain ones
    )


def _forward(
    model: Model,
    backend: Backend,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    attend: Staged,
    cache: Cache,
    embeds: InputEmbeds | None = None,
) -> tuple[jax.Array, Cache]:
    """`Model.forward` of the model, whose layers are in stages."""
    assert model.in_layers is not None
    assert model.placement is not None
    x, shared = model.in_layers.first_on(backend, params, tokens, positions, embeds)
    is_step = tokens.ndim == 1  # one ragged row, whose sequences are not divided
    num_parts = 1 if is_step else num_microbatches(tokens.shape[0], model.placement)
    split = functools.partial(split_rows, num_parts=num_parts)
    parts = jax.tree.map((lambda each: each[None]) if is_step else split, (x, shared))
    layers = jax.tree.map(
        lambda leaf: _with_ids(leaf, (lambda ids: ids[None]) if is_step else split),
        params["layers"],
        is_leaf=_is_lora,
    )
    run = jax.shard_map(
        functools.partial(_stage, model, backend, num_parts),
        mesh=model.placement.mesh,
        in_specs=(_layer_specs(layers), P(), P(), P("pipeline")),
        out_specs=(P(), P("pipeline")),
        axis_names={"pipeline"},
        check_vma=False,
    )
    hidden, cache = run(layers, parts, attend.split(num_parts), cache)
    return hidden[0] if is_step else join_rows(hidden), cache


def num_microbatches(num_rows: int, placement: Placement) -> int:
    """The number of microbatches into which a batch's rows are divided.

    It is `_PER_STAGE` for each stage, or less if the rows of a microbatch could not be divided over
    the data axes.
    """
    shape = placement.shape
    least = shape.data * shape.fsdp
    most = _PER_STAGE * shape.pipeline
    return max(n for n in range(1, most + 1) if n == 1 or num_rows % (n * least) == 0)


def _stage(
    model: Model,
    backend: Backend,
    num_parts: int,
    layers: Sequence[Params],
    parts: tuple[jax.Array, Any],
    attend: Staged,
    cache: Cache,
) -> tuple[jax.Array, Cache]:
    """Computes the layers of one stage in all turns.

    Returns:
      The last stage's outputs [parts, ...], on every stage; and the stage's cache.
    """
    assert model.placement is not None
    num_stages = model.placement.shape.pipeline
    stage = jax.lax.axis_index("pipeline")
    own = _own(layers)
    inputs, shared = parts
    to_next = [(number, (number + 1) % num_stages) for number in range(num_stages)]

    def turn(
        carry: tuple[jax.Array, Cache, jax.Array], number: jax.Array
    ) -> tuple[tuple[jax.Array, Cache, jax.Array], None]:
        x, cache, outputs = carry
        part = number - stage
        is_active = (part >= 0) & (part < num_parts)
        part = jnp.clip(part, 0, num_parts - 1)
        x = jnp.where(stage == 0, inputs[part], x)
        beside = jax.tree.map(lambda each: each[part], shared)
        layers = jax.tree.map(functools.partial(_of_part, part), own, is_leaf=_is_lora)
        own_attend = attend.in_stage(part, is_active)
        x, cache = _layers(model, backend, layers, x, beside, own_attend, cache)
        is_done = is_active & (stage == num_stages - 1)
        outputs = jnp.where(is_done, outputs.at[part].set(x), outputs)
        return (jax.lax.ppermute(x, "pipeline", to_next), cache, outputs), None

    carry = (jnp.zeros_like(inputs[0]), jax.tree.map(lambda each: each[0], cache), inputs * 0)
    turns = jnp.arange(num_parts + num_stages - 1)
    (_, entries, outputs), _ = jax.lax.scan(turn, carry, turns)
    # Only the last stage has outputs; the others add zeros.
    outputs = jax.lax.psum(jnp.where(stage == num_stages - 1, outputs, 0), "pipeline")
    return outputs, jax.tree.map(lambda each: each[None], entries)


def _layers(
    model: Model,
    backend: Backend,
    layers: Sequence[Params],
    x: jax.Array,
    shared: Any,
    attend: Staged,
    cache: Cache,
) -> tuple[jax.Array, Cache]:
    assert model.in_layers is not None
    entries = []
    for number, (p, entry) in enumerate(zip(layers, cache, strict=True)):
        x, entry = model.in_layers.layer_on(backend, number, p, x, shared, attend, entry)
        entries.append(entry)
    return x, tuple(entries)


def _is_lora(node: Any) -> bool:
    return isinstance(node, LoraWeight)


def _with_ids(leaf: Any, change: Callable[[jax.Array], jax.Array]) -> Any:
    """A weight whose rows' adapters are changed; anything else as it is."""
    return replace(leaf, ids=change(leaf.ids)) if isinstance(leaf, LoraWeight) else leaf


def _of_part(part: jax.Array, leaf: Any) -> Any:
    """A weight for one microbatch: its rows' adapters, and dropout of its own."""
    if not isinstance(leaf, LoraWeight):
        return leaf
    key = None if leaf.key is None else jax.random.fold_in(leaf.key, part)
    return replace(leaf, ids=leaf.ids[part], key=key)


def _layer_specs(layers: Sequence[Params]) -> Any:
    """The partition of the layers over the stages: their leading axis is divided, an adapter's ids
    are not.
    """

    def of(leaf: Any) -> Any:
        if not isinstance(leaf, LoraWeight):
            return P("pipeline")
        key = None if leaf.key is None else P()
        divided = P("pipeline")
        return replace(leaf, base=divided, a=divided, b=divided, scales=P(), ids=P(), key=key)

    return jax.tree.map(of, layers, is_leaf=_is_lora)


def _own(layers: Sequence[Params]) -> Any:
    """A stage's own layers, without the leading axis."""

    def first(tree: Any) -> Any:
        return jax.tree.map(lambda each: each[0], tree)

    def of(leaf: Any) -> Any:
        if not isinstance(leaf, LoraWeight):
            return leaf[0]
        return replace(leaf, base=first(leaf.base), a=leaf.a[0], b=leaf.b[0])

    return jax.tree.map(of, layers, is_leaf=_is_lora)
