"""Counts a model's parameters, and the formats in which its weights are held."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp

from flaxen.kernels.linear import LinearWeight
from flaxen.kernels.linear.weight import num_bytes
from flaxen.models.model import Model, Params
from flaxen.models.params import is_spec
from flaxen.serving.fact import Fact
from flaxen.serving.sizes import show_size


def count_params(model: Model) -> int:
    """The number of a model's parameters."""
    specs = jax.tree.leaves(model.param_specs, is_leaf=is_spec)
    return sum(math.prod(spec.shape) for spec in specs if is_spec(spec))


def weight_formats(params: Params) -> dict[str, float]:
    """Maps each number format to its share of the weights, the largest share first.

    Vectors, such as the weights of norms, are left out: they are few, and never quantized.
    """
    sizes: Counter[str] = Counter()
    for leaf in jax.tree.leaves(params, is_leaf=_is_packed):
        if len(leaf.shape) > 1:
            name = leaf.format if _is_packed(leaf) else leaf.dtype.name
            sizes[name] += math.prod(leaf.shape)
    total = sum(sizes.values())
    return {name: size / total for name, size in sizes.most_common()}


def about_weights(
    params: Params, num_params: int, dtype: jnp.dtype, cache_dtype: jnp.dtype
) -> Fact:
    """The dtype of compute and of the KV cache, the formats of the weights, and the memory that
    quantization saves."""
    formats = weight_formats(params)
    shares = ", ".join(f"{name} ({share:.0%})" for name, share in formats.items())
    held, plain = num_bytes(params), num_params * dtype.itemsize
    text = dtype.name
    if list(formats) != [dtype.name]:
        text = f"{dtype}, its weights in {shares}"
        if held < plain:
            text += f": {show_size(held)} of memory in place of {show_size(plain)}"
    if cache_dtype != dtype:
        text += f"; its KV cache in {cache_dtype.name}"
    fields = {"dtype": dtype.name, "weights": list(formats), "weight_bytes": held}
    fields["kv_cache_dtype"] = cache_dtype.name
    return Fact(label="dtype", text=text, fields=fields)


def _is_packed(node: Any) -> bool:
    return isinstance(node, LinearWeight)
