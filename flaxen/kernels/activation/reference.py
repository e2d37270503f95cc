"""Activations in plain jnp."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_FUNCTIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
}


def activation(x: Float[Array, "*B D"], name: str) -> Float[Array, "*B D"]:
    """See flaxen.kernels.activation.activation."""
    return _FUNCTIONS[name](x.astype(jnp.float32)).astype(x.dtype)
