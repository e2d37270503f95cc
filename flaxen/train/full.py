"""Training all parameters: float32 masters, computed with in their dtype and packing.

Deliberately does not know: losses, optimizers, files, model families.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from flaxen.kernels.linear import PackedLinear, pack, unpack
from flaxen.models.model import Model, Params, ParamSpec
from flaxen.train.trainable import Trainable

_TABLES = ("embed", "unembed")  # [V, D]; packed as [D, V]


def full(*, dtype: jnp.dtype, packed: bool) -> Trainable:
    """All of a model's parameters.

    Args:
      dtype: of compute, float32 or bfloat16.
      packed: whether the C++ kernels compute.
    """

    def to_compute(masters: Params) -> Params:
        return compute_params(masters, dtype=dtype, packed=packed)

    def assemble(compute: Params, frozen: Params, shape: tuple[int, int], key: jax.Array) -> Params:
        return compute

    computes_with_masters = dtype == jnp.float32 and not packed
    return Trainable(
        num_adapters=None,
        to_compute=None if computes_with_masters else to_compute,
        assemble=assemble,
    )


def compute_params(masters: Params, *, dtype: jnp.dtype, packed: bool) -> Params:
    """Plain parameters as `weights.checkpoint` would have loaded them.

    Args:
      masters: a tree of plain arrays like the model's param_specs.
      dtype: of the result.
      packed: matrices become PackedLinear.
    """

    def one(path: tuple[Any, ...], leaf: jax.Array) -> Any:
        leaf = leaf.astype(dtype)
        if not packed or leaf.ndim != 2:
            return leaf
        return pack(leaf.T if path[0].key in _TABLES else leaf)

    return jax.tree_util.tree_map_with_path(one, masters)


def masters_of(params: Params) -> Params:
    """The inverse: float32 masters of loaded parameters, quantized ones dequantized."""

    def one(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        if isinstance(leaf, PackedLinear):
            values = unpack(leaf)
            leaf = values.T if path[0].key in _TABLES else values
        return jnp.asarray(leaf, jnp.float32)

    return jax.tree_util.tree_map_with_path(
        one, params, is_leaf=lambda leaf: isinstance(leaf, PackedLinear)
    )


def initial_params(model: Model, seed: int) -> Params:
    """Random float32 masters to train from scratch.

    Norms are ones and biases zeros. Matrices are normal with the deviation 0.02, and those that
    write into the residual stream 0.02 / sqrt(2 L), as in GPT-2
    (https://d4mucfpksywv.cloudfront.net/better-language-models/language-models.pdf).

    Args:
      model: gives the shapes.
      seed: the same seed gives the same parameters, on any machine.
    """
    num_layers = len(model.cache_specs)
    flat, structure = jax.tree.flatten_with_path(
        model.param_specs, is_leaf=lambda leaf: isinstance(leaf, ParamSpec)
    )
    root = jax.random.key(seed)

    def one(number: int, name: str, spec: ParamSpec) -> jax.Array:
        if name.endswith("norm"):
            return jnp.ones(spec.shape, jnp.float32)
        if len(spec.shape) == 1:
            return jnp.zeros(spec.shape, jnp.float32)
        deviation = 0.02 / math.sqrt(2 * num_layers) if name in ("wo", "w_down") else 0.02
        drawn = jax.random.normal(jax.random.fold_in(root, number), spec.shape, jnp.float32)
        return deviation * drawn

    leaves = [one(number, path[-1].key, spec) for number, (path, spec) in enumerate(flat)]
    return jax.tree.unflatten(structure, leaves)
