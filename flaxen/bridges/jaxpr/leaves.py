"""A definition's parameters in all forms: plain, packed or quantized, with or without adapters.

Deliberately does not know the computation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.bridges.jaxpr.views import view
from flaxen.kernels.linear import LinearWeight, LoraWeight
from flaxen.models.model import Params
from flaxen.models.param_spec import ParamSpec
from flaxen.models.params import matrices


def leaves_of(structure: Any, specs: Sequence[ParamSpec], params: Params) -> list[Any]:
    """The parameters in order. An adapter of an array is reshaped to the matrix that it adapts.

    Args:
      structure: the structure of the definition's own parameter tree.
      specs: one for each leaf.
      params: a tree with that structure, whose leaves may be packed or have adapters.
    """
    leaves = structure.flatten_up_to(params)
    return [_as_weight(leaf, spec) for leaf, spec in zip(leaves, specs, strict=True)]


def paths_of(params: Params) -> list[str]:
    """Each parameter's path, as Python writes it."""
    return [jax.tree_util.keystr(path) for path, _ in jax.tree.flatten_with_path(params)[0]]


def check_params(params: Params, max_position: int) -> None:
    """Refuses leaves that are not arrays, and a max_position that is not a positive number.

    Raises:
      ValueError: a leaf that has no shape or no dtype, or max_position is below 1.
    """
    if not isinstance(max_position, int) or max_position < 1:
        raise ValueError(
            f"max_position is {max_position!r}: give the number of tokens that a sequence can have"
        )
    for path, leaf in zip(paths_of(params), jax.tree.leaves(params), strict=True):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
            raise ValueError(
                f"params{path} is a {type(leaf).__name__}, but parameters must be arrays: make it "
                "a jax.numpy array, or let the function have it from elsewhere"
            )


def _as_weight(leaf: Any, spec: ParamSpec) -> Any:
    beside = leaf if isinstance(leaf, dict) else {0: leaf}
    arrays = [
        each.base
        for each in beside.values()
        if isinstance(each, LoraWeight) and not isinstance(each.base, LinearWeight)
    ]
    if not arrays or spec.matrix is None:
        return leaf
    # For stacked layers the dict has only those with an adapter, each with the whole array.
    found = {
        index: dataclasses.replace(beside[index], base=base) if index in beside else base
        for index, base in matrices(arrays[0], spec.matrix).items()
    }
    return found if isinstance(leaf, dict) else found[0]


def views_of(specs: Sequence[ParamSpec], leaves: Sequence[Any], dtypes: Sequence[Any]) -> list[Any]:
    """The parameters as the interpreter takes them: views, or plain arrays if they have one axis.

    Args:
      specs: of all parameters.
      leaves: the parameters, in the same order.
      dtypes: the dtypes of their values.
    """
    return [
        view(number, leaf, spec.shape, None if _is_plain(leaf) else spec.matrix, dtype)
        if len(spec.shape) > 1
        else leaf
        for number, (leaf, spec, dtype) in enumerate(zip(leaves, specs, dtypes, strict=True))
    ]


def _is_plain(leaf: Any) -> bool:
    return not isinstance(leaf, LinearWeight | LoraWeight | dict)


def dtypes_of(leaves: Sequence[Any], others: Sequence[Any]) -> tuple[Any, ...]:
    """The dtypes of the parameters' values. A quantized one gets that of `others` or peers."""
    found = [_dtype(leaf) for leaf in leaves]
    floats = [
        dtype
        for dtype in (*others, *found)
        if dtype is not None and jnp.issubdtype(dtype, jnp.floating)
    ]
    other = floats[0] if floats else jnp.dtype(jnp.bfloat16)
    return tuple(other if dtype is None else dtype for dtype in found)


def _dtype(leaf: Any) -> Any:
    if isinstance(leaf, LoraWeight):
        return _dtype(leaf.base)
    if isinstance(leaf, dict):
        return _dtype(next(iter(leaf.values())))
    if isinstance(leaf, LinearWeight):
        return jnp.dtype(leaf.format) if leaf.format in ("float32", "bfloat16") else None
    return jnp.dtype(leaf.dtype)
