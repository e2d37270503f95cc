"""The state of a training run between two steps, as one immutable pytree.

Deliberately does not know: the frozen base of adapters, files, the step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxen.models.model import Params


class TrainState(NamedTuple):
    """Everything that must be saved to resume a run exactly."""

    params: Params  # float32 master parameters: the model's, or a stack of adapters
    opt_state: Any  # the optimizer's state
    step: jax.Array  # int32: the number of steps done
    key: jax.Array  # PRNG key; each step folds its number in, so the key never changes
    # for a Flax definition: the current values of the collections that are not trained
    collections: Any = None
    data_state: Any = None  # the position in the data, from its iterator


def new_state(params: Params, opt_state: Any, seed: int) -> TrainState:
    """The state before the first step.

    Args:
      params: float32 master parameters.
      opt_state: the optimizer's state for them.
      seed: the seed of the run's randomness.
    """
    return TrainState(
        params=params,
        opt_state=opt_state,
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key(seed),
    )
