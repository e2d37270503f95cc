"""Turns a pure function of tokens into a Model: all bridges go through this file.

The function is examined here, and run by traced.py. Its parameters keep their own tree structure.
Deliberately does not know Flax or PyTorch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flaxen.bridges.check import check_served
from flaxen.bridges.jaxpr.interpret import evaluate_eqns
from flaxen.bridges.jaxpr.leaves import check_params, paths_of, views_of
from flaxen.bridges.jaxpr.positions import check_positions
from flaxen.bridges.jaxpr.roles import find_roles
from flaxen.bridges.jaxpr.run import Run, Use, plain
from flaxen.bridges.jaxpr.trace import abstract
from flaxen.bridges.sharding import ShardingRule, head_size, param_names, with_rules
from flaxen.bridges.signature import check_arguments, logits_of
from flaxen.bridges.traced import (
    Apply,
    TracedDefinition,
    TracedFunction,
    forward,
    trace_at,
    train_forward,
    unembed,
)
from flaxen.kernels.backend import Backend
from flaxen.kernels.choice import AUTO, choose_backend
from flaxen.models import attention_impls
from flaxen.models.model import Model, Params
from flaxen.models.param_spec import PACKED_ROLES, Matrix, ParamSpec
from flaxen.sharding.mesh import without_mesh

_PROBE = (1, 16)  # the shape of the trace that examines a definition


class NoAttentionError(ValueError):
    """A definition contains no attention that can be replaced."""


def from_function(
    function: Callable[[Params, jax.Array, jax.Array], jax.Array],
    params: Params,
    *,
    max_position: int,
    sharding: Sequence[ShardingRule] = (),
    backend: str = AUTO,
) -> Model:
    """Turns a JAX function (params, tokens [B, T], positions [B, T]) -> logits [B, T, V] into a
    Model.

    The function calls `flaxen.attend` for attention; everything else is computed for each token
    alone. The logits may also be the first element of a tuple, "logits" in a dict, or an attribute
    `logits`; other outputs are ignored.

    Args:
      function: pure.
      params: a tree of JAX or NumPy arrays: dicts, tuples, or a class that is a pytree, such as
          Equinox's.
      max_position: the most tokens of a sequence.
      sharding: how parameters are divided over a mesh: pairs of a regular expression, searched
          for in a parameter's name (its path joined by dots), and a name for each of its axes:
          vocab, heads, kv_heads, mlp, model, an axis of the mesh, or None. The first that is
          found decides.
      backend: what the Model is made for and checked on, as EngineArgs.backend.

    Raises:
      ValueError: the function can't be served: it has no attention, its attention is not over the
          model's tokens, or it gives other logits in pieces than as a whole.
    """
    name = getattr(function, "__name__", "the function")
    check_arguments(function, name)
    model = from_apply(
        lambda params, tokens, positions, key: function(params, tokens, positions),
        params,
        max_position=max_position,
        sharding=sharding,
        backend=backend,
    )
    whole = jax.jit(lambda *call: logits_of(function(*call)))
    check_served(model, params, whole, name=name)
    return model


@without_mesh()
def from_apply(
    apply: Apply,
    params: Params,
    *,
    max_position: int,
    axes: Any = None,
    sharding: Sequence[ShardingRule] = (),
    trained: str | None = None,
    trains_apart: bool = False,
    backend: str = AUTO,
) -> Model:
    """Turns a pure function into a Model.

    Args:
      apply: the function; it calls `flaxen.attend` for attention.
      params: a tree of arrays, or of shapes with dtypes; nothing is computed with them.
      max_position: the most tokens of a sequence.
      axes: a tree like `params` whose leaves are tuples of the logical names of the axes; or None.
      sharding: as in `from_function`; it goes before `axes`.
      trained: the collection of `params` that is trained; None trains all of them.
      trains_apart: whether training differs from inference; `apply` then gets a key in training.
      backend: what the Model is made for, by a name that `choose_backend` takes.

    Raises:
      NoAttentionError: the function contains no attention.
      ValueError: its attention can't be served, or it does not return logits [B, T, V].
    """
    chosen = choose_backend(backend)
    check_params(params, max_position)
    leaves, tree = jax.tree.flatten(params)
    structure: Any = tree  # JAX does not annotate its class
    shapes = tuple(tuple(leaf.shape) for leaf in leaves)
    own_axes = (
        [(None,) * len(shape) for shape in shapes]
        if axes is None
        else structure.flatten_up_to(axes)
    )
    names = with_rules(own_axes, param_names(params, trained=trained), shapes, sharding)
    function = TracedFunction(apply=apply, structure=structure, shapes=shapes)
    dtypes = tuple(jax.dtypes.canonicalize_dtype(leaf.dtype) for leaf in leaves)
    trace, _ = trace_at(function, _PROBE, dtypes, False)
    roles = find_roles(trace.jaxpr, len(leaves))
    specs = tuple(
        ParamSpec(shape=shape, axes=tuple(name), role=role)
        for shape, name, role in zip(function.shapes, names, roles, strict=True)
    )
    run, width = _probe(TracedDefinition(function=function, specs=specs), chosen, dtypes)
    if not run.specs:
        raise NoAttentionError(
            "the definition contains no attention that can be replaced: give its modules an "
            "attention_fn, as Flax's "
            "MultiHeadAttention has, or let them call flaxen.attend(q, k, v)"
        )
    check_positions(trace.jaxpr, paths_of(params), len(leaves) + 1, max_position)
    definition = TracedDefinition(function=function, specs=_with_uses(specs, run))
    return Model(
        forward_on=jax.jit(
            functools.partial(forward, definition), static_argnums=0, donate_argnames=("cache",)
        ),
        unembed_on=jax.jit(functools.partial(unembed, definition), static_argnums=0),
        param_specs=jax.tree.unflatten(structure, definition.specs),
        cache_specs=tuple(run.specs),
        vocab_size=width,
        max_position=max_position,
        trained=trained,
        train_forward_on=functools.partial(train_forward, definition) if trains_apart else None,
        backend=chosen,
    )


def _probe(
    definition: TracedDefinition, backend: Backend, dtypes: tuple[Any, ...]
) -> tuple[Run, int]:
    """Runs a definition abstractly. Returns the Run, which says what it contains, and V."""
    run = Run(
        token_shape=_PROBE, attend=attention_impls.causal(None, backend), cache=(), backend=backend
    )
    trace, _ = trace_at(definition.function, _PROBE, dtypes, False)

    def whole(leaves: Sequence[Any], tokens: jax.Array) -> Any:
        env = trace.env([*views_of(definition.specs, leaves, dtypes), tokens, tokens])
        eqns = trace.jaxpr.jaxpr.eqns
        outs = evaluate_eqns(run, eqns, env, trace.jaxpr.jaxpr.outvars)
        return [plain(run, out) for out in outs]

    leaves = [
        abstract(spec.shape, dtype) for spec, dtype in zip(definition.specs, dtypes, strict=True)
    ]
    logits = jax.eval_shape(whole, leaves, abstract(_PROBE, jnp.int32))[0]
    return run, logits.shape[-1]


def _with_uses(specs: tuple[ParamSpec, ...], run: Run) -> tuple[ParamSpec, ...]:
    """The specs, with what a run found: how each parameter is packed, and the size of its heads."""
    return tuple(
        dataclasses.replace(
            spec,
            matrix=matrix if spec.role in PACKED_ROLES else None,
            head_dim=_head_dim(spec, run),
        )
        for spec, matrix in zip(specs, _matrices(run.uses, len(specs)), strict=True)
    )


def _head_dim(spec: ParamSpec, run: Run) -> int:
    """How many numbers along the parameter's heads belong to one, by the attention of a run."""
    return head_size(
        spec.axes,
        spec.shape,
        num_heads=run.num_heads,
        num_kv_heads=[each.num_kv_heads for each in run.specs],
        head_dims=[each.head_dim for each in run.specs],
    )


def _matrices(uses: Sequence[Use], num_leaves: int) -> list[Matrix | None]:
    """The packing of each parameter that is only ever multiplied in one way; None for the others.
    A tied embedding may also be looked up.
    """
    found: list[Matrix | None] = []
    for leaf in range(num_leaves):
        own = {use for use in uses if use.leaf == leaf}
        ways = {(use.inputs, use.outputs, use.layers) for use in own}
        is_multiplied = any(use.kind == "product" for use in own)
        if len(ways) != 1 or not is_multiplied or any(use.kind == "other" for use in own):
            found.append(None)
            continue
        ((inputs, outputs, layers),) = ways
        fits = inputs and outputs
        found.append(Matrix(inputs=inputs, outputs=outputs, layers=layers) if fits else None)
    return found
