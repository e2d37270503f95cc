"""A plan's bytes are those of the arrays of a real engine on that mesh."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from flaxen.engine_args import EngineArgs
from flaxen.execution.device_state import DeviceState
from flaxen.kernels.backend import Backend
from flaxen.models.model import Model
from flaxen.planning.params import param_shapes
from flaxen.planning.serving import ServingPlan, plan_serving
from flaxen.planning.step_work import expected_collectives
from flaxen.planning.targets import Hardware, find_hardware
from flaxen.sharding.mesh import mesh_without_devices
from flaxen.sharding.placement import Placement
from flaxen.sharding.shape import parse_mesh
from tests.engine.tiny import MODEL, PARAMS
from tests.mesh.meshes import on_mesh, placed

FLOAT32 = jnp.dtype("float32")
ASKED = EngineArgs(
    model="tiny",
    max_model_len=128,
    max_num_seqs=16,
    max_num_batched_tokens=64,
    kv_cache_bytes=2**20,
)
# Compiling and running on this machine's CPU, with the memory of a GPU.
HARDWARE: Hardware = replace(find_hardware("h100"), backend=Backend.REFERENCE)


def planned(model: Model, *, compiles: bool) -> ServingPlan:
    params = param_shapes(model, FLOAT32)
    return plan_serving(model, params, HARDWARE, ASKED, FLOAT32, compiles=compiles)


def first_devices_bytes(arrays: Any) -> int:
    return sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(arrays)
        for shard in leaf.addressable_shards
        if shard.device == jax.devices()[0]
    )


@pytest.mark.parametrize("mesh", ["tensor=2", "tensor=6"])
def test_planned_bytes_are_those_of_an_engine(mesh: str) -> None:
    model = on_mesh(mesh)
    plan = planned(model, compiles=True)
    parts = dict(plan.memory.parts)
    assert plan.config is not None
    assert model.placement is not None
    params = placed(PARAMS, model.placement)
    device = DeviceState(model, params, plan.config, FLOAT32)
    assert parts["weights"] == first_devices_bytes(params)
    assert parts["KV pages"] == first_devices_bytes(device._cache)
    assert 0 < ASKED.kv_cache_bytes - parts["KV pages"] < 2**14  # type: ignore[operator]
    rows = device._rows.settings, device._rows.bias, device._tokens
    assert parts["sampling state"] == first_devices_bytes(rows)
    # Its input from the host is the rest of what the compiler counts.
    held = sum(parts[name] for name in ("weights", "KV pages", "sampling state"))
    for step in (plan.decode, plan.prefill):
        assert step is not None
        assert step.compiled is not None
        assert 0 <= step.compiled.argument_bytes - held < 2**14


def test_what_is_sent_is_expected() -> None:
    """Two sums a layer and one of the embeddings; what sampling adds is small."""
    model = on_mesh("tensor=2")
    step = planned(model, compiles=True).prefill
    assert step is not None
    (expected,) = expected_collectives(model, step.load.shape.num_tokens, FLOAT32.itemsize)
    sums = [each for each in step.work.collectives if each.kind == "all-reduce"]
    assert sum(each.num_bytes for each in sums) == pytest.approx(expected.num_bytes, rel=0.02)


def test_without_devices_the_bytes_are_the_same() -> None:
    placement = Placement(mesh_without_devices(parse_mesh("tensor=2")))
    found = planned(MODEL.on(Backend.REFERENCE, placement), compiles=False)
    compiled = planned(on_mesh("tensor=2"), compiles=True)
    for name in ("weights", "KV pages", "sampling state"):
        assert dict(found.memory.parts)[name] == dict(compiled.memory.parts)[name]
    assert found.config == compiled.config
