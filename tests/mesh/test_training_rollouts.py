"""GRPO on a mesh: an engine samples there, with the very arrays that are trained there."""

from __future__ import annotations

import jax
import numpy as np

from flaxen.training.full import full
from flaxen.training.grpo import grpo
from flaxen.training.rollouts import RolloutMetrics, train_on_rollouts
from flaxen.training.state import TrainState
from flaxen.training.step import start
from tests.engine.tiny import PARAMS, prompts
from tests.mesh.meshes import executor_on, on_mesh, placement
from tests.mesh.training import FLOAT32, params_on
from tests.training.sampler import CONFIG, Sampler, share_of_low_ids
from tests.training.tiny import make

MESH = "fsdp=2,tensor=2"


def test_an_engine_samples_on_the_mesh_of_its_trainer() -> None:
    model = on_mesh(MESH)
    step = make(full(model, dtype=FLOAT32), grpo(model, CONFIG), name="sgd")
    state = start(step, params_on(model, PARAMS), 0)
    sampler = Sampler("float32", trains_all=True, executor=executor_on(placement(MESH)))
    rounds: list[RolloutMetrics] = []

    def on_round(metrics: RolloutMetrics, state: TrainState) -> None:
        rounds.append(metrics)
        given = sampler.published[-1]
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: a is b, given, state.params)))

    state = train_on_rollouts(
        *(step, state, None, CONFIG, [prompts([5, 9])] * 2),
        sample=sampler.sample,
        reward=share_of_low_ids,
        publish=sampler.publish,
        on_round=on_round,
    )
    assert int(state.step) == len(rounds) == 2
    for each in rounds:
        (update,) = each.updates
        # The advantages of a group add up to zero, and so does the loss where the trainer finds the
        # log-probabilities of the sampling.
        assert abs(update["loss"]) < 1e-5
        assert update["grad_norm"] > 0.01
        assert update["clipped"] == 0
    wq = state.params["layers"][0]["wq"]
    assert tuple(wq.sharding.spec) == ("fsdp", "tensor")
    assert not np.allclose(wq, PARAMS["layers"][0]["wq"], atol=1e-6)
