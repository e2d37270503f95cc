"""Parameters as plain arrays, from the form that a forward uses."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from flaxen.models.model import Params
from flaxen.models.param_spec import ParamSpec
from flaxen.models.params import is_spec, plain_param


def plain_params(specs: Any, params: Params) -> Params:
    """The inverse of `compute_params`: float32 arrays, dequantized if quantized; integers stay.

    Args:
      specs: a model's param_specs, or a part of them.
      params: as loaded.
    """

    def one(spec: ParamSpec, leaf: Any) -> jax.Array:
        array = plain_param(spec, leaf)
        is_float = jnp.issubdtype(array.dtype, jnp.floating)
        return array.astype(jnp.float32) if is_float else array

    return jax.tree.map(one, specs, params, is_leaf=is_spec)
