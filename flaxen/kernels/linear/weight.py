"""The forms of a weight that are not plain arrays, and their values.

Deliberately does not know who computes with which form.
"""

from __future__ import annotations

from typing import Any

import jax

from flaxen.kernels.linear import packed, quantized
from flaxen.kernels.linear.packed import PackedLinear
from flaxen.kernels.linear.quantized import QuantizedLinear

LinearWeight = PackedLinear | QuantizedLinear


def num_bytes(params: Any) -> int:
    """The bytes of a tree of parameters on their devices."""
    leaves = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, LinearWeight))
    return sum(leaf.nbytes for leaf in leaves)


def unpack(weight: LinearWeight) -> jax.Array:
    """The values [I, O]: exact in the dtype of float weights, float32 for quantized ones."""
    if isinstance(weight, QuantizedLinear):
        return quantized.unpack(weight)
    return packed.unpack(weight)
