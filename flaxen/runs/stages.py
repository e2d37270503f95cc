"""A run's state as it is saved: with one tree a layer, whatever the pipeline stages of its mesh.

So a run can go on with another number of stages, and results are those of one device. Adapters are
never in stages. Deliberately does not know files.
"""

from __future__ import annotations

from collections.abc import Callable

from flaxen.models.model import Model, Params
from flaxen.models.staging import in_trees, stage_params, unstage_params
from flaxen.sharding.placement import Placement
from flaxen.training.config import TrainConfig
from flaxen.training.state import TrainState


def to_saved(config: TrainConfig, model: Model, state: TrainState) -> TrainState:
    """The state as it is saved; its arrays stay on their devices."""
    return _change(config, model, state, unstage_params)


def from_saved(config: TrainConfig, model: Model, state: TrainState) -> TrainState:
    """The inverse of `to_saved`."""
    return _change(config, model, state, stage_params)


def _change(
    config: TrainConfig,
    model: Model,
    state: TrainState,
    change: Callable[[Params, Placement | None], Params],
) -> TrainState:
    if config.method != "full" or model.num_stages == 1:
        return state
    params, opt_state = in_trees(
        lambda tree: change(tree, model.placement), (state.params, state.opt_state)
    )
    return state._replace(params=params, opt_state=opt_state)
