"""The forms of a weight that are not plain arrays, and their values.

Deliberately does not know who computes with which form.
"""

from __future__ import annotations

import jax

from flaxen.kernels.linear import packed, quantized
from flaxen.kernels.linear.packed import PackedLinear
from flaxen.kernels.linear.quantized import QuantizedLinear

LinearWeight = PackedLinear | QuantizedLinear


def unpack(weight: LinearWeight) -> jax.Array:
    """The values [I, O]: exact in the dtype of float weights, float32 for quantized ones."""
    if isinstance(weight, QuantizedLinear):
        return quantized.unpack(weight)
    return packed.unpack(weight)
