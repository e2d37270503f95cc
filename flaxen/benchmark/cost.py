"""What a step of a model must read and multiply, counted from its parameters. Imports JAX."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax

from flaxen.benchmark.ideal import CacheLayer, ExpertsCost, ModelCost
from flaxen.kernels.linear.weight import num_bytes
from flaxen.models.cache import CacheSpec, Sliding, State
from flaxen.models.model import Model, Params
from flaxen.models.param_spec import ParamSpec
from flaxen.models.params import is_spec


class _Part(NamedTuple):
    """A parameter's spec in the model, and its arrays in the engine."""

    spec: ParamSpec
    held: Any  # perhaps packed, or a dict of packed layers


def model_cost(model: Model, params: Params, cache_itemsize: int) -> ModelCost:
    """Counts matrices by their size in memory, so that quantized weights count their actual bytes.

    Args:
      model: the model, for the shapes of parameters before packing.
      params: the parameters as the engine holds them.
      cache_itemsize: bytes of one element of the keys and values.
    """
    parts = _parts(model.param_specs, params)
    layers = [part for part in parts if part.spec.role in ("matrix", "vector")]
    # Only rows are read of a table that is not multiplied.
    unembed = [part for part in parts if part.spec.role == "table" and part.spec.is_multiplied]
    matrices = [part.spec.shape for part in layers if part.spec.role == "matrix"]
    return ModelCost(
        weight_bytes=sum(num_bytes(part.held) for part in (*layers, *unembed)),
        layer_params=sum(map(math.prod, matrices)),
        unembed_params=sum(math.prod(part.spec.shape) for part in unembed),
        cache_layers=tuple(_cache_layer(spec, cache_itemsize) for spec in model.cache_specs),
        experts=tuple(
            ExpertsCost(
                num_bytes=num_bytes(part.held),
                num_params=math.prod(part.spec.shape),
                share=part.spec.share,
            )
            for part in parts
            if part.spec.role == "experts"
        ),
    )


def _cache_layer(spec: CacheSpec, itemsize: int) -> CacheLayer:
    if isinstance(spec, State):
        size = spec.bytes_per_sequence
        return CacheLayer(bytes_per_token=0, window=None, bytes_per_sequence=size)
    window = spec.window if isinstance(spec, Sliding) else None
    return CacheLayer(bytes_per_token=spec.bytes_per_token(itemsize), window=window)


def _parts(specs: Any, params: Params) -> list[_Part]:
    leaves, tree = jax.tree.flatten(specs, is_leaf=is_spec)
    structure: Any = tree  # JAX does not annotate its class
    held = structure.flatten_up_to(params)
    return [_Part(spec, each) for spec, each in zip(leaves, held, strict=True)]
