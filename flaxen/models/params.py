"""Converts plain parameters to the form that a forward uses (cast, packed), and back.

Deliberately does not know files, quantization, or training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import LinearWeight, pack, unpack
from flaxen.models.model import Params
from flaxen.models.param_spec import Matrix, ParamSpec


def compute_params(specs: Any, params: Params, *, dtype: jnp.dtype, backend: Backend) -> Params:
    """Casts and packs parameters as `weights.checkpoint` does when loading. Differentiable.

    Args:
      specs: a model's param_specs, or a part of them.
      params: a tree of plain arrays like the specs.
      dtype: the dtype of the result; integers are not cast.
      backend: what computes with them; if it packs weights, matrices become PackedLinear.
    """

    def one(spec: ParamSpec, leaf: jax.Array) -> Any:
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            leaf = leaf.astype(jnp.float32 if spec.is_wide else dtype)
        if not backend.packs_weights:
            return leaf
        if spec.is_stack:
            return pack(leaf, backend=backend)
        if spec.matrix is None:
            return leaf
        found = {
            index: pack(each, backend=backend)
            for index, each in matrices(leaf, spec.matrix).items()
        }
        return found if spec.matrix.layers is not None else found[0]

    return jax.tree.map(one, specs, params, is_leaf=is_spec)


def plain_param(spec: ParamSpec, leaf: Any) -> jax.Array:
    """One parameter as a plain array in its own dtype, or in float32 if it is quantized."""
    if isinstance(leaf, dict):
        assert spec.matrix is not None
        assert spec.matrix.layers is not None
        layers = [_plain(spec, each) for each in leaf.values()]
        return jnp.stack(layers, axis=spec.matrix.layers)
    return _plain(spec, leaf) if isinstance(leaf, LinearWeight) else jnp.asarray(leaf)


def matrices(leaf: Any, matrix: Matrix) -> dict[int, Any]:
    """The weights [I, O] in a parameter by layer number: one, or several if layers are stacked.

    Args:
      leaf: an array of JAX or NumPy.
      matrix: the meaning of its axes; axes without one have size 1.
    """
    layers = () if matrix.layers is None else (matrix.layers,)
    order = (*layers, *matrix.inputs, *matrix.outputs)
    rest = [axis for axis in range(leaf.ndim) if axis not in order]
    sizes = [math.prod(leaf.shape[axis] for axis in axes) for axes in (layers, matrix.inputs)]
    stacked = leaf.transpose(*order, *rest).reshape(*sizes, -1)
    return {index: stacked[index] for index in range(sizes[0])}


def from_matrices(
    weights: Mapping[int, np.ndarray], matrix: Matrix, shape: tuple[int, ...]
) -> np.ndarray:
    """The inverse of `matrices`: a parameter of a shape, of all its weights [I, O]."""
    layers = () if matrix.layers is None else (matrix.layers,)
    order = (*layers, *matrix.inputs, *matrix.outputs)
    order += tuple(axis for axis in range(len(shape)) if axis not in order)
    stacked = np.stack([weights[index] for index in range(len(weights))])
    return stacked.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))


def is_spec(node: Any) -> bool:
    """Whether a node of a tree is a ParamSpec."""
    return isinstance(node, ParamSpec)


def _plain(spec: ParamSpec, leaf: LinearWeight) -> jax.Array:
    if spec.is_stack:
        return unpack(leaf)
    matrix = spec.matrix
    assert matrix is not None
    order = (*matrix.inputs, *matrix.outputs)
    kept = [axis for axis in range(len(spec.shape)) if axis != matrix.layers]
    rest = [axis for axis in kept if axis not in order]
    values = unpack(leaf).reshape(*(spec.shape[axis] for axis in order), *(1 for _ in rest))
    return values.transpose([(*order, *rest).index(axis) for axis in kept])
