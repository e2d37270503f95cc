"""`flaxen.from_linen` turns a module of Flax Linen into a Model and its parameters.

Deliberately does not know how the Model is run.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from flax.core import unfreeze

from flaxen.bridges.check import check_served
from flaxen.bridges.flax.attention_fn import attention_fn
from flaxen.bridges.function import NoAttentionError, from_apply
from flaxen.bridges.sharding import ShardingRule, metadata_axes
from flaxen.bridges.signature import keywords, logits_of
from flaxen.kernels.choice import AUTO
from flaxen.models.model import Model, Params

_PARAMS = "params"
_CACHE = "cache"  # the collection of a module with its own decoding; our cache is separate


def from_linen(
    module: nn.Module,
    variables: Mapping[str, Any],
    *,
    max_position: int,
    sharding: Sequence[ShardingRule] = (),
    backend: str = AUTO,
) -> tuple[Model, Params]:
    """Turns a module into a Model and its variables, for an engine, a trainer, or plain JAX.

    The module takes tokens [B, T], and `positions` [B, T] if it has that argument, and returns
    logits [B, T, V]. An argument `deterministic` or `train` tells it whether it is training. Its
    attention must be causal: it calls `flaxen.attend`, or has submodules with an `attention_fn`,
    such as nn.MultiHeadDotProductAttention, which is replaced by ours. Lifted transforms are
    allowed: a loop over layers is unrolled, so that each layer has its own cache.

    In training the rngs "params" and "dropout" are seeded by the run's key, and all collections but
    "params" are mutable: the next step gets their new values.

    Args:
      module: the definition.
      variables: the result of `module.init`; boxes of logical partitioning are read and removed.
      max_position: the most tokens of a sequence.
      sharding: how parameters are divided over a mesh, as in `from_function`; it goes before the
          names in the boxes.
      backend: what the Model is made for and checked on, as EngineArgs.backend.

    Returns:
      The Model, and the variables by collection.

    Raises:
      ValueError: the module can't be served, for the reasons listed at `from_nnx`.
    """
    boxed = unfreeze(dict(variables))
    if _PARAMS not in boxed:
        raise ValueError(f"the variables have no collection 'params', only {sorted(boxed)}")
    boxed = {name: tree for name, tree in boxed.items() if name != _CACHE}
    params: Params = nn.meta.unbox(boxed)
    axes = jax.tree.map(_axes, boxed, is_leaf=_is_box)

    def model_of(replaces: bool) -> Model:
        return from_apply(
            functools.partial(_apply, module, replaces),
            params,
            max_position=max_position,
            axes=axes,
            sharding=sharding,
            trained=_PARAMS,
            trains_apart=True,
            backend=backend,
        )

    try:
        model = model_of(False)
    except NoAttentionError:
        model = model_of(True)
    check_served(
        model,
        params,
        jax.jit(
            lambda params, tokens, positions: logits_of(
                _apply(module, False, params, tokens, positions, None)
            )
        ),
        name=type(module).__name__,
    )
    return model, params


def _apply(
    module: nn.Module,
    replaces: bool,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    key: jax.Array | None,
) -> Any:
    """The module's logits, and in training the new values of its other collections."""
    trains = key is not None
    given = keywords(module.__call__, positions, trains=trains)
    call = functools.partial(module.apply, params, tokens, **given)
    if key is not None:
        names = ("params", "dropout")
        rngs = {name: jax.random.fold_in(key, number) for number, name in enumerate(names)}
        mutable = [name for name in params if name != _PARAMS]
        call = functools.partial(call, rngs=rngs, mutable=mutable)
    if not replaces:
        return call()
    with nn.intercept_methods(_put_attention):
        return call()


def _put_attention(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Replaces the `attention_fn` of each module that has one, just before the module is called."""
    if callable(getattr(context.module, "attention_fn", None)):
        # Modules are frozen dataclasses; this copy exists for this call only.
        object.__setattr__(context.module, "attention_fn", attention_fn)
    return call(*args, **kwargs)


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.meta.AxisMetadata)


def _axes(leaf: Any) -> tuple[str | None, ...]:
    if not _is_box(leaf):
        return (None,) * int(leaf.ndim)
    shape = leaf.unbox().shape
    names = getattr(leaf, "names", None) or leaf.get_partition_spec()
    rules = getattr(leaf, "rules", None)
    return metadata_axes(names, len(shape), rules, f"a variable of the shape {list(shape)}")
