"""How many tokens each expert gets: one flat array over the layers that have experts.

Deliberately does not know who reads it.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.models.layers.part import Routing
from flaxen.models.model import Model


def expert_load(model: Model, routings: Sequence[Routing], is_token: jax.Array) -> jax.Array:
    """The tokens of each expert, int32 [sum of E over the layers with experts].

    Args:
      model: the model.
      routings: of each of these layers.
      is_token: [...] whether a token is one, and no padding.
    """
    counts = []
    for num_experts, routing in zip(model.num_experts, routings, strict=True):
        ids = jnp.where(is_token[..., None], routing.ids, num_experts)
        chosen = ids[..., None] == jnp.arange(num_experts).reshape((1,) * ids.ndim + (-1,))
        counts.append(jnp.sum(chosen, axis=tuple(range(ids.ndim)), dtype=jnp.int32))
    return jnp.concatenate(counts)


def by_layer(model: Model, load: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """The same as numbers: those of a layer's experts, for each layer with experts."""
    ends = np.cumsum(model.num_experts)[:-1]
    return tuple(tuple(each.tolist()) for each in np.split(load, ends))
