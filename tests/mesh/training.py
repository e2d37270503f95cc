"""Training steps of a tiny model on meshes, and on one device to compare them with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.kernels.backend import Backend
from flaxen.models.decoder import decoder
from flaxen.models.model import Model, Params
from flaxen.training.microbatches import split_batch
from flaxen.training.state import TrainState
from flaxen.training.step import TrainStep, run_step, start
from tests.engine.tiny import MODEL_CONFIG
from tests.engine.tiny import PARAMS as TWO_LAYERS
from tests.mesh.meshes import on_mesh, placed
from tests.models.features import with_features
from tests.training.tiny import copy

FLOAT32 = jnp.dtype("float32")
# One layer, with a window: each mesh is compiled apart.
MODEL = decoder(with_features(MODEL_CONFIG, num_layers=1, windows=(24,)))
PARAMS = {**TWO_LAYERS, "layers": TWO_LAYERS["layers"][1:]}


class Steps(NamedTuple):
    """What some steps found, and the state after the last."""

    metrics: list[dict[str, Any]]
    state: TrainState


def model_on(mesh: str | None, model: Model = MODEL) -> Model:
    """The model on a mesh; None is one device."""
    return model.on(Backend.REFERENCE) if mesh is None else on_mesh(mesh, model)


def params_on(model: Model, params: Params = PARAMS) -> Params:
    """Parameters of its own for a model's mesh, or for one device."""
    if model.placement is None:
        return copy(params)
    return placed(copy(params), model.placement, model)


def run_steps(
    step: TrainStep,
    masters: Params,
    batches: Sequence[Any],
    *,
    frozen: Params = None,
    num_microbatches: int = 1,
    collections: Any = None,
) -> Steps:
    """One step for each batch."""
    state = start(step, masters, 0, collections)
    compute = step.prepare(state.params)
    metrics = []
    for batch in batches:
        parts = split_batch(batch, num_microbatches, step.trainable.num_groups)
        state, compute, found = run_step(step, state, compute, frozen, parts)
        metrics.append(jax.device_get({**found.values, "grad_norm": found.grad_norm}))
    return Steps(metrics, state)


def assert_same(found: Steps, expected: Steps) -> None:
    """The same losses, gradient norms and parameters, to 1e-5."""
    for one, other in zip(found.metrics, expected.metrics, strict=True):
        for name, value in other.items():
            np.testing.assert_allclose(one[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=0, atol=1e-5),
        *(jax.device_get(each.state.params) for each in (found, expected)),
    )
