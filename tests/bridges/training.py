"""Batches to train tiny definitions on, and the run itself."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.data.batch import Batch
from flaxen.kernels.backend import Backend
from flaxen.kernels.choice import choose_backend
from flaxen.models.adapters import LoraConfig
from flaxen.models.model import Model, Params
from flaxen.models.params import compute_params
from flaxen.training.full import full
from flaxen.training.loop import Callbacks, train
from flaxen.training.lora import initial_adapters, lora
from flaxen.training.loss import next_token
from flaxen.training.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer, make_schedule
from flaxen.training.state import TrainState
from flaxen.training.step import make_step, start
from flaxen.weights.adapters.adapter import Adapter, from_stack
from tests.training.tiny import Repeated, pack_batch

LENGTH = 48
BACKEND = choose_backend()
needs_kernels = pytest.mark.skipif(BACKEND is not Backend.CPU, reason="the library was not built")


def counting_batches(num: int = 4) -> list[Batch]:
    """Two sequences a row, each counting in steps of its own: what comes next can be learnt."""
    rng = np.random.default_rng(0)

    def sequence() -> list[int]:
        first, step = int(rng.integers(0, 200)), int(rng.integers(1, 4))
        return [(first + step * index) % 250 for index in range(20)]

    return [pack_batch([[sequence(), sequence()] for _ in range(4)], LENGTH) for _ in range(num)]


def train_definition(
    model: Model, params: Params, num_steps: int, learning_rate: float = 3e-3
) -> tuple[TrainState, list[float]]:
    """Trains all of the collection "params". Returns the state, and each step's loss."""
    losses: list[float] = []
    step = make_step(
        full(model, dtype=jnp.dtype("float32")),
        next_token(model),
        make_optimizer(OptimizerConfig(learning_rate=learning_rate)),
        make_schedule(ScheduleConfig(name="constant"), num_steps),
        [learning_rate],
    )
    masters = jax.tree.map(jnp.copy, params["params"])
    rest = {name: tree for name, tree in params.items() if name != "params"}
    state = train(
        step,
        start(step, masters, 0, rest),
        None,
        Repeated(counting_batches()),
        num_steps=num_steps,
        callbacks=Callbacks(
            on_metrics=lambda metrics: losses.append(float(metrics.values["loss"][0]))
        ),
    )
    return state, losses


def train_adapter(
    model: Model, params: Params, config: LoraConfig, num_steps: int
) -> tuple[Adapter, list[float]]:
    """Trains one adapter beside frozen parameters, packed where kernels compute."""
    frozen = compute_params(
        model.param_specs, params, dtype=jnp.dtype("float32"), backend=choose_backend()
    )
    losses: list[float] = []
    step = make_step(
        lora(config),
        next_token(model),
        make_optimizer(OptimizerConfig(learning_rate=1e-2)),
        make_schedule(ScheduleConfig(name="constant"), num_steps),
        [1e-2],
    )
    state = train(
        step,
        start(step, initial_adapters(model, config, [0]), 0),
        frozen,
        Repeated(counting_batches()),
        num_steps=num_steps,
        callbacks=Callbacks(
            on_metrics=lambda metrics: losses.append(float(metrics.values["loss"][0]))
        ),
    )
    return from_stack(config, state.params), losses


def assert_parity(
    model: Model, params: Params, adapter: Adapter | None = None, **args: Any
) -> None:
    """No bit of a log-probability differs between the trainer and any way of the server."""
    from flaxen.definitions.definition import Definition
    from flaxen.parity.compare import compare
    from tests.bridges.words import byte_tokenizer

    rng = np.random.default_rng(7)
    prompts = [rng.integers(1, 256, length).tolist() for length in (17, 40, 65)]
    definition = Definition(model=model, params=params, tokenizer=byte_tokenizer())
    found = compare({"model": definition, **args}, prompts, 6, adapter)
    assert min(each.num_tokens for each in found) > 0
    assert [each.num_differing for each in found] == [0] * 5
