"""`flaxen.from_nnx` turns a module of Flax NNX into a Model and its parameters.

Deliberately does not know how the Model is run.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from flaxen.bridges.check import check_served
from flaxen.bridges.flax.attention_fn import attention_fn
from flaxen.bridges.function import NoAttentionError, from_apply
from flaxen.bridges.sharding import ShardingRule, metadata_axes
from flaxen.bridges.signature import keywords, logits_of
from flaxen.kernels.choice import AUTO
from flaxen.models.model import Model, Params

_Path = tuple[Any, ...]
_PARAMS = "params"


def from_nnx(
    module: nnx.Module,
    *,
    max_position: int,
    sharding: Sequence[ShardingRule] = (),
    backend: str = AUTO,
) -> tuple[Model, Params]:
    """Turns a module into a Model and its variables, for an engine, a trainer, or plain JAX.

    The module takes tokens [B, T], and `positions` [B, T] if it has that argument, and returns
    logits [B, T, V]. Its attention must be causal: it calls `flaxen.attend`, or has submodules with
    an `attention_fn`, such as nnx.MultiHeadAttention, which is replaced by ours. The module itself
    is not changed.

    In training, dropout is on and batch statistics are updated, as after `module.train()`; RNG
    streams are seeded by the run's key. After `flaxen.train`, `result.update(module)` puts the
    trained values into the module.

    Args:
      module: the definition, with its variables.
      max_position: the most tokens of a sequence.
      sharding: how parameters are divided over a mesh, as in `from_function`; it goes before the
          names of axes that `nnx.with_partitioning` gave them.
      backend: what the Model is made for and checked on, as EngineArgs.backend.

    Returns:
      The Model, and its collections: {"params": {...}, "batch_stats": {...}, ...} by path.

    Raises:
      ValueError: the module can't be served: it has no attention that can be replaced, its
          attention is not causal, or it counts positions by itself.
    """
    serving, training = nnx.clone(module), nnx.clone(module)
    serving.eval()  # type: ignore[no-untyped-call]
    training.train()  # type: ignore[no-untyped-call]
    by_itself, _ = nnx.split(serving)
    _without_caches(serving)
    _without_caches(training)
    graph, state = nnx.split(serving)
    variables = dict(nnx.to_flat_state(state))
    params = _collections(variables)
    axes = _collections(variables, _axes)
    apply: Any = functools.partial(_apply, variables)

    def model_of(graphs: tuple[Any, Any]) -> Model:
        return from_apply(
            functools.partial(apply, graphs),
            params,
            max_position=max_position,
            axes=axes,
            sharding=sharding,
            trained=_PARAMS,
            trains_apart=True,
            backend=backend,
        )

    try:
        model = model_of((graph, nnx.split(training)[0]))
    except NoAttentionError:
        if not _put_attention(serving) + _put_attention(training):
            raise
        model = model_of((nnx.split(serving)[0], nnx.split(training)[0]))
    check_served(
        model,
        params,
        jax.jit(lambda *call: logits_of(apply((by_itself, None), *call, None))),
        name=type(module).__name__,
    )
    return model, params


def update_nnx(module: nnx.Module, params: Params) -> None:
    """Puts values into a module's variables, in place.

    RNG streams and decode caches, which `from_nnx` leaves out, stay as they are.

    Args:
      module: the module that `from_nnx` was given, or one with the same variables.
      params: collections as `from_nnx` returns them.

    Raises:
      ValueError: a variable of the module has no value, or one of another shape.
    """
    values = {}
    for path, variable in dict(nnx.to_flat_state(nnx.state(module))).items():
        if _is_rng(variable) or (_collection(variable) not in params):
            continue
        name = ".".join(map(str, path))
        try:
            value = _at(params, path, variable)
        except KeyError:
            raise ValueError(
                f"there is no trained value for {name} of {type(module).__name__}: give the module "
                "that from_nnx was given"
            ) from None
        own = variable.get_value()
        if own.shape != value.shape:
            raise ValueError(
                f"{name} of {type(module).__name__} has the shape {list(own.shape)}, and its "
                f"trained value {list(value.shape)}: give the module that from_nnx was given"
            )
        values[path] = variable.replace(value.astype(own.dtype))
    nnx.update(module, nnx.from_flat_state(values))


def _apply(
    variables: Mapping[_Path, Any],
    graphs: tuple[Any, Any],
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    key: jax.Array | None,
) -> Any:
    """The module's logits, and in training the new values of its other collections."""
    values = {}
    for number, (path, variable) in enumerate(variables.items()):
        if not _is_rng(variable):
            value = _at(params, path, variable)
        elif key is not None and isinstance(variable, nnx.RngKey):
            own = jax.random.fold_in(key, number)
            shape = variable.get_value().shape  # stacked layers have one RNG stream each
            value = jax.random.split(own, shape) if shape else own
        else:
            value = variable.get_value()
        values[path] = variable.replace(value)
    module = nnx.merge(graphs[key is not None], nnx.from_flat_state(values))
    logits = module(tokens, **keywords(module.__call__, positions, trains=key is not None))
    if key is None:
        return logits
    after = dict(nnx.to_flat_state(nnx.state(module)))
    changed = _collections({path: after[path] for path in variables})
    del changed[_PARAMS]
    return logits, changed


def _without_caches(module: nnx.Module) -> None:
    """Switches off the attention modules' own decode caches."""
    for _, each in nnx.iter_modules(module):
        if getattr(each, "decode", None):
            setattr(each, "decode", False)  # noqa: B010 (not every module has one)


def _put_attention(module: nnx.Module) -> int:
    """Replaces the `attention_fn` of each module that has one. Returns how many there are."""
    found = [
        each
        for _, each in nnx.iter_modules(module)
        if callable(getattr(each, "attention_fn", None))
    ]
    for each in found:
        setattr(each, "attention_fn", attention_fn)  # noqa: B010 (as above)
    return len(found)


def _collections(
    variables: Mapping[_Path, Any], of: Any = lambda variable: variable.get_value()
) -> dict[str, Any]:
    """Nested dicts by collection and path, without RNG streams, which are not parameters."""
    found: dict[str, Any] = {_PARAMS: {}}
    for path, variable in variables.items():
        if _is_rng(variable):
            continue
        place = found.setdefault(_collection(variable), {})
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = of(variable)
    return found


def _at(params: Params, path: _Path, variable: Any) -> Any:
    place = params[_collection(variable)]
    for part in path:
        place = place[part]
    return place


def _collection(variable: Any) -> str:
    if isinstance(variable, nnx.Param):
        return _PARAMS
    return nnx.variable_name_from_type(variable.type, allow_register=True)


def _is_rng(variable: Any) -> bool:
    return isinstance(variable, nnx.RngState)


def _axes(variable: Any) -> tuple[str | None, ...]:
    names = variable.get_metadata("out_sharding", None)
    rules = variable.get_metadata("sharding_rules", None)
    shape = variable.get_value().shape
    return metadata_axes(names, len(shape), rules, f"a variable of the shape {list(shape)}")
