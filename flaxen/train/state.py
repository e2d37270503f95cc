"""What a training run is between two steps, as one immutable pytree.

Deliberately does not know: the frozen base of adapters, files, the step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxen.models.model import Params


class TrainState(NamedTuple):
    """All that must be kept to go on as if nothing had happened."""

    params: Params  # float32 masters of what is trained: the model's, or a stack of adapters
    opt_state: Any  # the optimizer's
    step: jax.Array  # int32: how many were made
    key: jax.Array  # PRNG key; a step's randomness is folded out of it, so that it never changes
    # of a definition in Flax: the collections that are not trained, as they are by now
    collections: Any = None
    data_state: Any = None  # where the data are read next, as their iterator says it


def new_state(params: Params, opt_state: Any, seed: int) -> TrainState:
    """The state before the first step.

    Args:
      params: float32 masters.
      opt_state: of the same parameters.
      seed: of the run's randomness.
    """
    return TrainState(
        params=params,
        opt_state=opt_state,
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key(seed),
    )
