"""What a step of a real model must read and multiply, from its parameters. Imports JAX."""

from __future__ import annotations

import math
from typing import Any

import jax

from flaxen.cli.bench_ideal import CacheLayer, ModelCost
from flaxen.models.model import Model, Params, ParamSpec


def model_cost(model: Model, params: Params, cache_itemsize: int) -> ModelCost:
    """Counts the matrices as they lie in memory, so that quantized weights count what they take.

    Args:
      model: the definition, which says what the parameters' shapes are before any packing.
      params: the parameters as the engine holds them.
      cache_itemsize: bytes of one element of the keys and values.
    """
    unembed = "unembed" if "unembed" in model.param_specs else "embed"
    weight_bytes = _num_bytes(params["layers"]) + _num_bytes(params[unembed])
    specs = jax.tree.leaves(model.param_specs["layers"], is_leaf=_is_spec)
    return ModelCost(
        weight_bytes=weight_bytes,
        layer_params=sum(math.prod(spec.shape) for spec in specs if len(spec.shape) > 1),
        unembed_params=math.prod(model.param_specs[unembed].shape),
        cache_layers=tuple(
            CacheLayer(
                bytes_per_token=2 * spec.num_kv_heads * spec.head_dim * cache_itemsize,
                window=spec.window,
            )
            for spec in model.cache_specs
        ),
    )


def _num_bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _is_spec(node: Any) -> bool:
    return isinstance(node, ParamSpec)
