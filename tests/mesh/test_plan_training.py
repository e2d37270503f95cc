"""A planned training step holds what a real one holds on that mesh, and sends what it sends."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import jax.numpy as jnp
import pytest

from flaxen.kernels.backend import Backend
from flaxen.models.model import Model
from flaxen.planning.targets import find_hardware
from flaxen.planning.training import TrainingArgs, TrainingPlan, plan_training
from flaxen.training.full import full
from flaxen.training.loss import next_token
from flaxen.training.optimizer import (
    OptimizerConfig,
    ScheduleConfig,
    make_optimizer,
    make_schedule,
)
from flaxen.training.step import make_step, start
from tests.mesh.meshes import placed
from tests.mesh.test_plan import first_devices_bytes
from tests.mesh.training import MODEL, PARAMS, model_on
from tests.training.tiny import copy

BFLOAT16 = jnp.dtype("bfloat16")
HARDWARE = replace(find_hardware("h100"), backend=Backend.REFERENCE)
ARGS = TrainingArgs(method="full", batch_size=4, sequence_length=32)


def planned(model: Model, args: TrainingArgs = ARGS, *, compiles: bool) -> TrainingPlan:
    return plan_training(model, HARDWARE, args, BFLOAT16, compiles=compiles)


@pytest.mark.parametrize("mesh", ["fsdp=2,tensor=2"])
def test_planned_bytes_are_those_of_a_state(mesh: str) -> None:
    model = model_on(mesh)
    plan = planned(model, compiles=True)
    parts = dict(plan.memory.parts)
    optimizer = make_optimizer(OptimizerConfig())
    schedule = make_schedule(ScheduleConfig(name="constant"), 1)
    trainable = full(model, dtype=BFLOAT16)
    step = make_step(trainable, next_token(model), optimizer, schedule, (1e-4,))
    assert model.placement is not None
    state = start(step, placed(copy(PARAMS), model.placement, MODEL), 0)
    assert parts["master parameters"] == first_devices_bytes(state.params)
    assert parts["optimizer state"] == first_devices_bytes(state.opt_state)
    assert parts["gradients"] == first_devices_bytes(step.zeros(state.params))
    assert parts["compute parameters"] == first_devices_bytes(step.prepare(state.params))
    # What a program does not read is no argument of it: the masters, whose cast is linear.
    read = parts["gradients"] + parts["compute parameters"]
    masters = parts["master parameters"]
    assert read < plan.compiled[0].argument_bytes < read + masters + parts["batch"]


def test_what_is_sent_is_expected() -> None:
    """Most of what is sent is gathered weights and gradients; XLA on a CPU has other kinds too."""
    model = model_on("fsdp=2")
    sent: Counter[str] = Counter()
    for each in planned(model, compiles=True).work.collectives:
        sent[each.kind] += each.num_bytes
    expected = {
        each.kind: each.num_bytes for each in planned(model, compiles=False).work.collectives
    }
    assert expected["all-gather"] == pytest.approx(sent["all-gather"], rel=0.6)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("mesh", ["tensor=2", "fsdp=2,data=2", "context=2"])
def test_every_mesh_has_shapes(method: str, mesh: str) -> None:
    plan = planned(model_on(mesh), replace(ARGS, method=method), compiles=False)
    names = [name for name, _ in plan.memory.parts]
    assert ("frozen parameters" in names) == (method == "lora")
    assert ("compute parameters" in names) == (method == "full")
    assert plan.fits
    assert plan.tokens_per_s == 4 * 32 / plan.times.least_s
    assert {each.num_devices for each in plan.work.collectives} <= {2, 4}


def test_layers_that_are_computed_again_take_less_memory_and_more_time() -> None:
    model = model_on("fsdp=2")
    kept, again = (
        planned(model, replace(ARGS, remat=remat), compiles=False) for remat in ("none", "layer")
    )
    assert again.work.num_operations > kept.work.num_operations
    assert again.memory.used_bytes <= kept.memory.used_bytes


@pytest.mark.parametrize(
    ("mesh", "changed", "said"),
    [
        ("data=2,fsdp=2", {"batch_size": 6}, "6 rows, and the mesh data=2,fsdp=2 divides them"),
        ("context=2", {"sequence_length": 33}, "33 tokens, and the mesh context=2"),
        ("data=2", {"sequence_length": 1024}, "sequence_length is 1024, .* made for 512 tokens"),
    ],
)
def test_what_cannot_be_divided_is_refused(mesh: str, changed: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        planned(model_on(mesh), replace(ARGS, **changed), compiles=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"method": "dpo"}, "method 'dpo' can't be planned: use full or lora"),
        ({"remat": "all"}, "remat 'all' can't be planned: use none or layer"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_a_step_that_is_not_known_is_refused(changed: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(ARGS, **changed)  # type: ignore[arg-type]
