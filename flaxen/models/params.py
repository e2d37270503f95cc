"""Plain parameters to what a forward computes with, and back.

Deliberately does not know files, quantization, or what trains them.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from flaxen.kernels.linear import PackedLinear, pack, unpack
from flaxen.models.model import Matrix, Params, ParamSpec


def compute_params(specs: Any, params: Params, *, dtype: jnp.dtype, packed: bool) -> Params:
    """Parameters as `weights.checkpoint` would have loaded them. Differentiable.

    Args:
      specs: a model's param_specs, or a part of them.
      params: a tree of plain arrays like the specs.
      dtype: of the result; integers stay what they are.
      packed: matrices become PackedLinear.
    """

    def one(spec: ParamSpec, leaf: jax.Array) -> Any:
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            leaf = leaf.astype(dtype)
        if not packed or spec.matrix is None:
            return leaf
        found = {index: pack(each) for index, each in matrices(leaf, spec.matrix).items()}
        return found if spec.matrix.layers is not None else found[0]

    return jax.tree.map(one, specs, params, is_leaf=is_spec)


def plain_params(specs: Any, params: Params) -> Params:
    """The inverse: float32 arrays, quantized ones dequantized; integers stay what they are.

    Args:
      specs: a model's param_specs, or a part of them.
      params: as loaded.
    """

    def one(spec: ParamSpec, leaf: Any) -> jax.Array:
        array = plain_param(spec, leaf)
        is_float = jnp.issubdtype(array.dtype, jnp.floating)
        return array.astype(jnp.float32) if is_float else array

    return jax.tree.map(one, specs, params, is_leaf=is_spec)


def plain_param(spec: ParamSpec, leaf: Any) -> jax.Array:
    """One parameter as a plain array of its own dtype, or of float32 if it is quantized."""
    if isinstance(leaf, dict):
        assert spec.matrix is not None
        assert spec.matrix.layers is not None
        layers = [_plain(spec, each) for each in leaf.values()]
        return jnp.stack(layers, axis=spec.matrix.layers)
    return _plain(spec, leaf) if isinstance(leaf, PackedLinear) else jnp.asarray(leaf)


def matrices(leaf: Any, matrix: Matrix) -> dict[int, Any]:
    """The weights [I, O] in a parameter, by their number: one, or as many as it has layers.

    Args:
      leaf: an array of JAX or NumPy.
      matrix: which of its axes are what; those in none are of size 1.
    """
    layers = () if matrix.layers is None else (matrix.layers,)
    order = (*layers, *matrix.inputs, *matrix.outputs)
    rest = [axis for axis in range(leaf.ndim) if axis not in order]
    sizes = [math.prod(leaf.shape[axis] for axis in axes) for axes in (layers, matrix.inputs)]
    stacked = leaf.transpose(*order, *rest).reshape(*sizes, -1)
    return {index: stacked[index] for index in range(sizes[0])}


def is_spec(node: Any) -> bool:
    """Whether a node of a tree is a leaf of specs."""
    return isinstance(node, ParamSpec)


def _plain(spec: ParamSpec, leaf: PackedLinear) -> jax.Array:
    matrix = spec.matrix
    assert matrix is not None
    order = (*matrix.inputs, *matrix.outputs)
    kept = [axis for axis in range(len(spec.shape)) if axis != matrix.layers]
    rest = [axis for axis in kept if axis not in order]
    values = unpack(leaf).reshape(*(spec.shape[axis] for axis in order), *(1 for _ in rest))
    return values.transpose([(*order, *rest).index(axis) for axis in kept])
